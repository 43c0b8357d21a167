"""The relaxation's value as a penalty: what it is worth, its gradient, and that the module is left alone."""

from __future__ import annotations

import doctest

import pytest
import torch
from helpers.gated import Gated
from helpers.networks import Residual, with_weights
from torch import nn
from torch.nn.utils import parametrizations

import lipguard
from lipguard import LipschitzPenalty
from lipguard.errors import ConfigError, UnsupportedLayerError
from lipguard.proposing import penalty
from lipguard.proposing.relaxation import LiveNetwork
from lipguard.trusted.reading.trace import trace

SHAPE = (2, 6, 6)


def networks() -> dict[str, nn.Module]:
    body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.GELU())
    return {
        "plain": nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)),
        "odd": nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(3), nn.PReLU(3),
            Residual(body, nn.Identity()), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 5), nn.Tanh(), nn.Linear(5, 3),
        ),
        "parametrised": nn.Sequential(
            parametrizations.weight_norm(nn.Conv2d(2, 2, 3)), nn.ELU(), nn.AvgPool2d(2), nn.Flatten(),
            parametrizations.spectral_norm(nn.Linear(8, 3)),
        ),
        "transposed": nn.Sequential(nn.ConvTranspose2d(2, 2, 3, 2), nn.LeakyReLU(), nn.Conv2d(2, 1, 3, 2)),
    }  # fmt: skip


def test_docstring() -> None:
    assert doctest.testmod(penalty).failed == 0


@pytest.mark.parametrize("name", list(networks()))
def test_the_live_network_is_the_network(name: str) -> None:
    model = with_weights(networks()[name], 0)
    live, still = LiveNetwork(model, SHAPE)(), trace(model, SHAPE)
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(live.forward(x), still.forward(x), rtol=1e-12)
    assert [node.shape for node in live.nodes] == [node.shape for node in still.nodes]
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    assert torch.allclose(LiveNetwork(model, SHAPE)().forward(x), model(x), rtol=1e-9)


@pytest.mark.parametrize("name", list(networks()))
def test_the_value_comes_to_the_bound_from_below(name: str) -> None:
    model = with_weights(networks()[name], 1)
    value = LipschitzPenalty(model, SHAPE, vectors=16)
    for _ in range(200):
        found = value()
        found.backward()
    bound = lipguard.certify(model, SHAPE).bound
    assert 0.9 * bound <= float(found.detach()) <= bound * (1 + 1e-6)


@pytest.mark.parametrize("name", list(networks()))
def test_the_gradient_is_that_of_the_value(name: str) -> None:
    model = with_weights(networks()[name], 2)
    value = LipschitzPenalty(model, SHAPE, vectors=16)
    for _ in range(300):
        model.zero_grad()
        found = value()
        found.backward()
    weights = [w for w in model.parameters() if w.grad is not None]
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in weights]
    expected = sum(float((w.grad * d).sum()) for w, d in zip(weights, direction, strict=True) if w.grad is not None)
    ends = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            for w, d in zip(weights, direction, strict=True):
                w.add_(1e-5 * sign * d)
        for _ in range(20):  # the optimum over the vectors moves at second order
            end = value()
            end.backward()
        ends.append(float(end.detach()))
        with torch.no_grad():
            for w, d in zip(weights, direction, strict=True):
                w.sub_(1e-5 * sign * d)
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(expected, rel=0.03, abs=1e-2 * ends[0])


def test_it_makes_bounds_small() -> None:
    torch.manual_seed(0)
    bounds = []
    for lam in (0.0, 0.1):
        model = nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 3))
        with_weights(model, 0).float().train()
        optimiser = torch.optim.SGD(model.parameters(), 0.05)
        value = LipschitzPenalty(model, SHAPE)
        x = torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(1))
        y = torch.randint(0, 3, (64,), generator=torch.Generator().manual_seed(2))
        for _ in range(60):
            loss = nn.functional.cross_entropy(model(x), y) + lam * value()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        bounds.append(lipguard.certify(model.eval(), SHAPE).bound)
    assert bounds[1] < 0.8 * bounds[0]


def test_the_module_is_left_as_it_was() -> None:
    model = with_weights(networks()["odd"], 0).float().train()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [m.training for m in model.modules()]
    state = torch.random.get_rng_state()
    value = LipschitzPenalty(model, SHAPE)
    found = value()
    assert found.dtype == torch.float32
    found.backward()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        assert float(value()) > 0  # no graph of the caller's, no step
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert value().dtype == torch.float32


def test_weights_computed_in_forward_are_read_anew() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(3, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, 2 * self.weight)

    model = Doubled()
    value = LipschitzPenalty(model, (3,))
    assert float(value().detach()) == pytest.approx(2.0, rel=0.05)
    with torch.no_grad():
        model.weight.mul_(3.0)
    value().backward()
    assert float(value().detach()) == pytest.approx(6.0, rel=0.05)


def test_every_second_call() -> None:
    model = with_weights(networks()["plain"], 0)
    once, twice = LipschitzPenalty(model, SHAPE), LipschitzPenalty(model, SHAPE, every=2)
    values = [float(twice().detach()) for _ in range(3)]
    assert values[0] == pytest.approx(2 * float(once().detach()))
    assert values[1] == 0
    assert values[2] > 0


def test_what_makes_no_sense_is_refused() -> None:
    for arguments in ({"vectors": 0}, {"every": 0}, {"warm_up": -1}, {"seed": 1.5}):
        with pytest.raises(ConfigError, match="Expected"):
            LipschitzPenalty(networks()["plain"], SHAPE, **arguments)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedLayerError, match="jumps"):
        LipschitzPenalty(nn.Sequential(nn.Hardshrink()), (3,))
    with pytest.raises(UnsupportedLayerError, match="its values are"):
        LipschitzPenalty(Gated(3, 2), (3,))
