"""Functions of whole groups: Jacobians of norm one at most, and nearly one somewhere; values and factors on boxes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from helpers.forward import Forward
from helpers.networks import with_weights
from helpers.sandwich import assert_sandwich
from torch import Tensor, nn

import lipguard
from lipguard import Ball, Box
from lipguard.certifying.turning import Turning
from lipguard.errors import InvalidNetworkError
from lipguard.trusted.layers import Activation, ParameterError, Product, Ranged, groups
from lipguard.trusted.reading.trace import trace

SIZES = (1, 2, 3, 7)
Maker = Callable[[int], tuple[Activation, float]]
MAKERS: dict[str, Maker] = {
    "softmax": groups.softmax,
    "log_softmax": groups.log_softmax,
    "logsumexp": groups.logsumexp,
    "length": groups.length,
    "1-norm": lambda n: groups.length(n, 1.0),
    "3-norm": lambda n: groups.length(n, 3.0),
    "1.5-norm": lambda n: groups.length(n, 1.5),
    "largest": lambda n: groups.length(n, math.inf),
    "smooth length": lambda n: groups.smooth_length(n, 0.1),
    "root mean square": lambda n: groups.root_mean_square(n, 0.01),
    "standardised": lambda n: groups.standardised(n, 0.01),
    "direction": lambda n: groups.direction(n, 0.3),
}
each = pytest.mark.parametrize("name", MAKERS)
sized = pytest.mark.parametrize("size", SIZES)


def samples(size: int) -> Tensor:
    """Groups of all sizes, some with one large entry, or near zero."""
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(300, size, generator=generator, dtype=torch.float64)
    x = x * 10 ** (4 * torch.rand(300, 1, generator=generator, dtype=torch.float64) - 3)
    x[:20, 0] += 40
    return torch.cat([x, torch.zeros(1, size).double(), 1e-9 * x[:5], torch.eye(size).double()])


def jacobians(layer: Activation, x: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.jacrev(layer.function))(x)


@each
@sized
def test_jacobians_have_norm_one_at_most(name: str, size: int) -> None:
    layer, _ = MAKERS[name](size)
    x = samples(size)
    x = x[(x != 0).all(1)] if "norm" in name or name in ("length", "largest", "direction") else x
    norms = torch.linalg.matrix_norm(jacobians(layer, x), 2)
    assert float(norms.max()) <= 1 + 1e-9


@each
@sized
def test_no_pair_moves_further_than_it_is_apart(name: str, size: int) -> None:
    layer, _ = MAKERS[name](size)
    u = samples(size)
    for v in (u.roll(1, 0), u + 1e-3 * samples(size).roll(7, 0), torch.zeros_like(u), -u):
        moved = (layer.function(u) - layer.function(v)).norm(dim=1)
        assert bool((moved <= (u - v).norm(dim=1) * (1 + 1e-9) + 1e-12 * (u.norm(dim=1) + v.norm(dim=1))).all())


CLOSE = {
    "softmax": torch.tensor([[0.0, 0.0, -90.0]]), "log_softmax": torch.tensor([[90.0, 0.0, 0.0]]),
    "logsumexp": torch.tensor([[90.0, 0.0, 0.0]]), "length": torch.tensor([[1.0, 2.0, 3.0]]),
    "1-norm": torch.tensor([[1.0, 1.0, 1.0]]), "3-norm": torch.tensor([[1.0, 1e-9, 1e-9]]),
    "1.5-norm": torch.tensor([[1.0, 1.0, 1.0]]), "largest": torch.tensor([[2.0, 1.0, 0.0]]),
    "smooth length": torch.tensor([[90.0, 0.0, 0.0]]), "root mean square": torch.zeros(1, 3),
    "standardised": torch.ones(1, 3), "direction": torch.tensor([[0.1, 0.0, 0.0]]),
}  # fmt: skip


@each
def test_the_constant_is_reached(name: str) -> None:
    layer, constant = MAKERS[name](3)
    assert float(torch.linalg.matrix_norm(jacobians(layer, CLOSE[name].double()), 2)) == pytest.approx(1, abs=1e-3)
    assert constant == pytest.approx({
        "softmax": 0.5, "log_softmax": 3**0.5, "1-norm": 3**0.5, "1.5-norm": 3 ** (2 / 3 - 0.5),
        "root mean square": 0.1, "standardised": 0.1, "direction": 0.3,
    }.get(name, 1.0))  # fmt: skip


def boxes(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    half = 10 ** (4 * torch.rand(len(samples(size)), size, generator=generator, dtype=torch.float64) - 3)
    return samples(size) - half, samples(size) + half


def inside(low: Tensor, high: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    shares = [torch.rand(low.shape, generator=generator, dtype=torch.float64) for _ in range(20)]
    return [low, high, *(low + (high - low) * share for share in shares),
            *(torch.where(share > 0.5, low, high) for share in shares)]  # fmt: skip


@each
@sized
def test_values_on_boxes_are_in_their_images(name: str, size: int) -> None:
    layer, _ = MAKERS[name](size)
    assert isinstance(layer, Ranged)
    if layer.image is None:
        return
    low, high = boxes(size)
    least, most = layer.image(low, high)
    for x in inside(low, high):
        y = layer.function(x)
        assert bool((y >= least - 1e-12 * y.abs() - 1e-14).all())
        assert bool((y <= most + 1e-12 * y.abs() + 1e-14).all())
    everything = torch.full((1, size), math.inf, dtype=torch.float64)
    assert not any(bool(end.isnan().any()) for end in layer.image(-everything, everything)) or name == "logsumexp"


@pytest.mark.parametrize("name", ["root mean square", "direction"])
@sized
def test_on_boxes_far_from_zero_it_moves_less(name: str, size: int) -> None:
    layer, _ = MAKERS[name](size)
    low, high = boxes(size)
    assert layer.within is not None
    alpha, beta = layer.within(low, high)
    assert bool((alpha == -beta).all())
    assert float(beta.max()) <= 1
    assert float(beta.min()) < 0.5
    points = inside(low, high)
    for u, v in itertools.pairwise(points):
        moved = (layer.function(u) - layer.function(v)).norm(dim=1)
        assert bool((moved <= beta[:, 0] * (u - v).norm(dim=1) * (1 + 1e-9) + 1e-14).all())


@pytest.mark.parametrize("eps", [0.0, -1.0, math.nan, 1e-320])
def test_without_a_positive_eps_there_is_no_constant(eps: float) -> None:
    for make in (groups.root_mean_square, groups.standardised, groups.direction):
        with pytest.raises(ParameterError, match="Set eps above 0"):
            make(3, eps)
    with pytest.raises(InvalidNetworkError, match=r"^0: eps=.* Set eps above 0"):
        trace(nn.Sequential(nn.LayerNorm(3, eps=eps)).eval(), (3,))


def test_what_is_no_norm_is_refused() -> None:
    with pytest.raises(InvalidNetworkError, match="Set p to 1 or more"):
        trace(Forward(lambda m, x: x.norm(0.5, 1, keepdim=True)), (3,))


def test_a_norm_of_the_batch_is_refused() -> None:
    for call in (lambda m, x: x.norm(), lambda m, x: x.logsumexp(0), lambda m, x: x.softmax(0)):
        with pytest.raises(InvalidNetworkError, match="it reduces the batch axis"):
            trace(Forward(call), (3,))


def test_layer_norm_is_bounded_by_its_gain_over_the_root_of_eps() -> None:
    """|diag(g) (I - 1 1' / n) / s| <= max |g| / sqrt(eps), and that of equal entries is the first of these."""
    model = nn.LayerNorm(4, eps=0.25).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([1.0, -3.0, 2.0, 0.5]))
    report = assert_sandwich(model.eval(), (4,))
    assert report.bound <= 6 * (1 + 1e-6)
    centred = torch.diag(model.weight.detach()) @ (torch.eye(4).double() - 0.25)
    exact = float(torch.linalg.matrix_norm(centred, 2)) / 0.5
    assert exact * (1 - 1e-9) <= report.bound


def test_far_from_zero_a_domain_makes_it_smaller() -> None:
    model = with_weights(nn.Sequential(nn.RMSNorm(3, eps=1e-6), nn.Linear(3, 2)), 0)
    report = assert_sandwich(model, (3,), domain=Ball(torch.tensor([3.0, -4.0, 5.0]).double(), 0.5))
    assert report.restricted is not None
    assert report.restricted.bound < 1e-2 * report.bound


@pytest.mark.parametrize("name", MAKERS)
def test_directions_are_turned_as_by_the_jacobian(name: str) -> None:
    layer, _ = MAKERS[name](3)
    x, v = samples(3)[:9], samples(3)[20:29]
    turning = Turning.of(layer, (x,))
    assert turning is not None
    expected = torch.einsum("bij,bj->bi", jacobians(layer, x), v)
    torch.testing.assert_close(turning(v), expected, rtol=1e-8, atol=1e-10)
    moved, lost = turning[2, None].carried((torch.stack([v[2].abs(), v[2].abs()]),))
    assert bool((expected[2].abs() <= moved[0] * (1 + 1e-9)).all())
    assert bool((lost > 0).all())


def test_products_are_turned_by_their_factors() -> None:
    a, b, da, db = torch.randn(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turning = Turning.of(Product(), (a, b))
    assert turning is not None
    torch.testing.assert_close(turning(da, db), da * b + a * db)
    assert Turning.of(layer_of_relu(), (a,)) is None


def layer_of_relu() -> Activation:
    layer = trace(nn.Sequential(nn.ReLU()), (3,)).nodes[1].layer
    assert isinstance(layer, Activation)
    return layer


def test_lower_bounds_of_norms_and_products_are_found() -> None:
    model = Forward(lambda m, x: x * x.norm(dim=1, keepdim=True))
    report = lipguard.certify(model, (2,), domain=Box(-1.0, 1.0))
    assert report.lower_bound >= 2 * 2**0.5 * 0.95  # of x |x| at the corner: 2 |x|
    assert report.lower_bound <= report.bound
