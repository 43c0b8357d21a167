"""Outputs with a proved error, against ball arithmetic that shares no code with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from helpers.forward_balls import is_within, outputs
from helpers.networks import MaxMin, Residual
from torch import Tensor, nn

import lipguard
from lipguard.certifying.hints import HINTS
from lipguard.trusted.layers import Activation
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.reading.table import TABLE
from lipguard.trusted.reading.trace import trace
from lipguard.trusted.regions import values as values_module
from lipguard.trusted.regions.intervals import activated
from lipguard.trusted.regions.values import values, work_of
from lipguard.trusted.rounding import lengths


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    lipguard.register(MaxMin, group=2)
    yield
    del TABLE.own[MaxMin]


def dense(activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 8), activation(), nn.Linear(8, 8), activation(), Residual(nn.Linear(8, 8), nn.Identity()),
        activation(), nn.Linear(8, 3),
    )  # fmt: skip


def images() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, bias=False))
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.LeakyReLU(0.1), Residual(body, nn.Identity()), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu": (lambda: dense(nn.ReLU), (5,)),
    "leaky relu": (lambda: dense(lambda: nn.LeakyReLU(0.3)), (5,)),
    "hardtanh": (lambda: dense(lambda: nn.Hardtanh(-0.3, 0.7)), (5,)),
    "tanh": (lambda: dense(nn.Tanh), (5,)),
    "softplus": (lambda: dense(lambda: nn.Softplus(threshold=60.0)), (5,)),
    "silu": (lambda: dense(nn.SiLU), (5,)),
    "maxmin": (lambda: dense(MaxMin), (5,)),
    "convolutions": (images, (2, 8, 8)),
}


def made(name: str, seed: int, scale: float = 1.0, shift: float = 0.0) -> tuple[nn.Module, tuple[int, ...]]:
    make, shape = MODELS[name]
    torch.manual_seed(seed)
    model = make().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale).add_(shift if parameter.dim() == 1 else 0.0)
    return model, shape


def inputs(shape: tuple[int, ...], count: int = 3) -> Tensor:
    return 2 * torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("with_norms", [False, True])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (30.0, 0.0), (1.0, 1e6), (1e-3, 0.0)])
def test_exact_outputs_are_within_the_error(name: str, scale: float, shift: float, with_norms: bool) -> None:
    for seed in range(2):
        model, shape = made(name, seed, scale, shift)
        network, x = trace(model, shape), inputs(shape)
        found, error = values(network, x, node_norms(network, HINTS) if with_norms else None)
        assert torch.equal(found, network.forward(x)) or name == "convolutions"  # a maximum is none of its sums
        assert found.dtype == error.dtype == torch.float64
        assert found.shape == error.shape == (3, 3)
        for sample, y, e in zip(x, found.tolist(), error.tolist(), strict=True):
            for own, off, exact in zip(y, e, outputs(model, sample), strict=True):
                assert is_within(own, off, exact)
        size = float(found.abs().max()) + max(scale, shift, 1.0) ** (1 if shift else 4)
        assert float(error.max()) < 1e-9 * size


def test_every_part_of_the_error_is_needed() -> None:
    """Rounding of one layer, carried on by weights that are far larger than its own."""
    for seed in range(20):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 1)).double()
        with torch.no_grad():
            model[2].weight.mul_(1e6)
            model[4].weight.mul_(1e6)
            model[4].bias.zero_()
        network, x = trace(model.eval(), (30,)), inputs((30,), 1)
        for norms in (None, node_norms(network, HINTS)):
            found, error = values(network, x, norms)
            (exact,) = outputs(model, x[0])
            assert is_within(float(found), float(error), exact)
            assert not is_within(float(found), 1e-5 * float(error), exact) or seed


@pytest.mark.parametrize(
    "sizes", [(1e-200, 1e-200, 1e200, 1e200), (1e-160, 1e-160, 1e150, 1e150), (1e-300, 1e-20, 1e300, 1.0)]
)
def test_what_underflow_loses_is_within_the_error(sizes: tuple[float, ...]) -> None:
    for between in (nn.ReLU, MaxMin, nn.Tanh, nn.Identity):
        layers: list[nn.Module] = []
        for size in sizes:
            layer = nn.Linear(2, 2).double()
            with torch.no_grad():
                layer.weight.copy_(size * torch.tensor([[1.0, 0.5], [0.25, 1.0]], dtype=torch.float64))
                layer.bias.zero_()
            layers += [layer, between()]
        model = nn.Sequential(*layers[:-1]).eval()
        network, x = trace(model, (2,)), torch.tensor([[1.3, 0.7]], dtype=torch.float64)
        for norms in (None, node_norms(network, HINTS)):
            found, error = values(network, x, norms)
            for own, off, exact in zip(found[0].tolist(), error[0].tolist(), outputs(model, x[0]), strict=True):
                assert is_within(own, off, exact)


@pytest.mark.parametrize("between", [nn.ReLU, nn.Tanh, lambda: nn.Hardtanh(-1.0, 1.0), nn.Sigmoid, MaxMin])
def test_what_overflows_is_not_known(between: Callable[[], nn.Module]) -> None:
    """Also where an activation makes something finite of it."""
    model = nn.Sequential(nn.Linear(2, 2), between(), nn.Linear(2, 2)).double().eval()
    steep = nn.Sequential(nn.Linear(2, 2), between(), nn.Linear(2, 2)).double().eval()
    with torch.no_grad():
        steep[0].weight.fill_(1e200)  # type: ignore[operator]
    for own, number in ((model, math.inf), (model, -math.inf), (model, math.nan), (steep, 1e200), (steep, -1e200)):
        network, x = trace(own, (2,)), torch.full((1, 2), number, dtype=torch.float64)
        for norms in (None, node_norms(network, HINTS)):
            assert bool(torch.isinf(values(network, x, norms)[1]).all())


@pytest.mark.parametrize(
    "layer",
    [nn.Tanh(), nn.Softplus(threshold=60.0), nn.SiLU(), nn.LeakyReLU(0.1), nn.ReLU(), nn.Linear(40, 40, bias=False)],
)
def test_what_a_single_layer_loses_is_within_the_error(layer: nn.Module) -> None:
    network, x = trace(layer.double().eval(), (40,)), inputs((40,), 5)
    for norms in (None, node_norms(network, HINTS)):
        found, error = values(network, x, norms)
        for sample, y, e in zip(x, found.tolist(), error.tolist(), strict=True):
            exact = outputs(layer, sample)
            assert all(is_within(own, off, z) for own, off, z in zip(y, e, exact, strict=True))


def test_a_maximum_has_the_error_of_the_larger_entry() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2)).double().eval()
    network = trace(model, (1, 2, 2))
    for seed in range(20):
        x = inputs((1, 2, 2), 21)[seed : seed + 1] * torch.tensor([[1e9, 1e-3], [1e-3, 1.0]], dtype=torch.float64)
        for norms in (None, node_norms(network, HINTS)):
            found, error = values(network, x, norms)
            (exact,) = outputs(model, x[0])
            assert is_within(float(found), float(error), exact)


def test_a_group_moves_as_a_whole() -> None:
    """The entry that is sorted to another place brings its error there."""
    layer = Activation("maxmin", -1.0, 1.0, lambda x: x.sort(-1, descending=True).values, 2)
    middle, half = torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.tensor([[0.0, 0.5]], dtype=torch.float64)
    value, moved, _ = activated(layer, middle, half, 0.0)
    assert value.tolist() == [[2.0, 1.0]]
    assert moved[0, 0] >= 0.5
    small = 1e-200 * torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    assert lengths(small)[0, 0] >= 5e-200
    assert lengths(small)[0, 0] == pytest.approx(5e-200)
    assert lengths(small)[1, 0] == 0


def test_norms_carry_errors_of_deep_networks() -> None:
    torch.manual_seed(0)
    layers = [m for _ in range(25) for m in (nn.utils.parametrizations.orthogonal(nn.Linear(40, 40)), nn.ReLU())]
    model = nn.Sequential(*layers[:-1]).double().eval()
    network, x = trace(model, (40,)), inputs((40,))
    entries, both = (values(network, x, norms)[1] for norms in (None, node_norms(network, HINTS)))
    assert float(both.max()) < 1e-9 < 1e-3 * float(entries.max())
    assert bool((both <= entries).all())


def test_moves_and_relus_lose_next_to_nothing() -> None:
    network = trace(nn.Sequential(nn.ReLU(), nn.Flatten()).eval(), (2, 3))
    x = inputs((2, 3))
    found, error = values(network, x, node_norms(network, HINTS))
    assert torch.equal(found, x.relu().flatten(1))
    assert float(error.max()) < 1e-13


def test_chunks_types_and_no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shape = made("convolutions", 0)
    network, x = trace(model, shape), inputs(shape, 7).float()
    whole = values(network, x)
    for entries in (1, 2 * sum(node.size for node in network.nodes)):
        monkeypatch.setattr(values_module, "_ENTRIES", entries)
        parts = values(network, x)
        assert torch.allclose(whole[0], parts[0], rtol=1e-12, atol=1e-12)
        assert torch.allclose(whole[1], parts[1], rtol=1e-6, atol=0)
    for half in (x.bfloat16(), x.half()):
        assert torch.equal(values(network, half)[0], values(network, half.double())[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(values(network, x)[0], parts[0])
    assert values(network, x[:0])[0].shape == values(network, x[:0])[1].shape == (0, 3)
    assert not values(network, x.requires_grad_())[0].requires_grad
    for wrong in (x[:, :1], x[0], x.long()):
        with pytest.raises(ValueError, match="Expected inputs of floats of shape"):
            values(network, wrong.detach())


def test_where_a_device_does_not_round_as_ieee_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shape = made("relu", 0)
    network, x = trace(model, shape), inputs(shape)
    asked: list[torch.device] = []
    monkeypatch.setattr(values_module, "rounds_as_ieee", lambda device: asked.append(device) or False)
    assert values(network, x)[0].device.type == "cpu"
    assert asked == [x.device]


def test_work_is_counted() -> None:
    assert work_of(trace(nn.Linear(4, 3).eval(), (4,))) == 4 + 3 * (1 + 4)
    small, large = (work_of(trace(nn.Conv2d(2, 3, k).eval(), (2, 8, 8))) for k in (1, 3))
    assert large > 3 * small
