"""Functions with slopes and values on intervals: on pairs of points, everywhere and on intervals of all sizes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lipguard.trusted import layers
from lipguard.trusted.layers import Activation, Ranged

POSITIVE = {"sqrt", "log", "x^0.3", "x^2.5"}
CURVES: list[Activation] = [
    layers.sine(), layers.cosine(), layers.error_function(), layers.smooth_length(0.3), layers.smooth_length(0.0),
    layers.normalised(0.2), layers.bell(), layers.lorentz(), layers.times_tanh(), layers.times_erf(),
    layers.exponential(), layers.power(2), layers.power(3), layers.power(4), layers.power(7), layers.real_power(0.3),
    layers.real_power(2.5), layers.root(), layers.reciprocal(), layers.logarithm(),
]  # fmt: skip
BOUNDED = [layer for layer in CURVES if math.isfinite(layer.lipschitz)]
WITHIN = [layer for layer in CURVES if layer.within is not None]
IMAGES = [layer for layer in CURVES if isinstance(layer, Ranged) and layer.image is not None]
named = {"ids": lambda layer: layer.name}


def ends(layer: Activation) -> tuple[Tensor, Tensor]:
    """Intervals of all sizes, near and far from zero, where the function is defined."""
    generator = torch.Generator().manual_seed(0)
    middle = 10 ** (5 * torch.rand(4000, generator=generator, dtype=torch.float64) - 3)
    middle = middle * (torch.rand(4000, generator=generator) - 0.5).sign()
    half = 10 ** (5 * torch.rand(4000, generator=generator, dtype=torch.float64) - 4)
    middle, half = middle.clamp(-200, 200), half.clamp(max=40)
    low, high = middle - half, middle + half
    if layer.name in POSITIVE:
        low, high = low.abs().minimum(high.abs()) + 1e-3, low.abs().maximum(high.abs()) + 1e-3
    if layer.name == "1 / x":
        keep = (low > 0) | (high < 0)
        low, high = low[keep], high[keep]
    return low, high


def pairs(low: Tensor, high: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Points of intervals: their ends, and others near and far from each other."""
    generator = torch.Generator().manual_seed(1)
    found = [(low, high)]
    for step in (1.0, 1e-2, 1e-4):
        u = low + (high - low) * torch.rand(low.shape, generator=generator, dtype=torch.float64)
        v = torch.minimum(u + step * (high - low), high)
        found += [(u, v), (low, torch.minimum(low + step * (high - low), high))]
    return found


@pytest.mark.parametrize("layer", WITHIN, **named)
def test_quotients_on_intervals_lie_between_their_slopes(layer: Activation) -> None:
    low, high = ends(layer)
    assert layer.within is not None
    alpha, beta = layer.within(low, high)
    assert bool((alpha <= beta).all())
    for u, v in pairs(low, high):
        far = (v - u).abs() > 0
        moved = layer.function(v) - layer.function(u)
        lost = 2e-15 * (layer.function(v).abs() + layer.function(u).abs())
        reach = (v - u).abs()
        assert bool((moved >= alpha * (v - u) - lost - 1e-13 * alpha.abs() * reach)[far].all())
        assert bool((moved <= beta * (v - u) + lost + 1e-13 * beta.abs() * reach)[far].all())


@pytest.mark.parametrize("layer", WITHIN, **named)
def test_slopes_on_a_point_are_the_derivative(layer: Activation) -> None:
    low, high = ends(layer)
    x = ((low + high) / 2).clamp(-40, 40)
    x = x[x.abs() > 1e-3].requires_grad_()
    derivative = torch.autograd.grad(layer.function(x).sum(), x)[0]
    assert layer.within is not None
    alpha, beta = layer.within(x.detach(), x.detach())
    for found in (alpha, beta):
        torch.testing.assert_close(found, derivative, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("layer", BOUNDED, **named)
def test_slopes_everywhere_hold_and_are_the_smallest(layer: Activation) -> None:
    x = torch.cat([torch.linspace(-9, 9, 200001, dtype=torch.float64), torch.linspace(-90, 90, 5001).double()])
    quotients = (layer.function(x + 1e-6) - layer.function(x)) / ((x + 1e-6) - x)
    least, most = float(quotients.min()), float(quotients.max())
    assert layer.alpha - 1e-8 <= least <= layer.alpha + 1e-3
    assert layer.beta - 1e-3 <= most <= layer.beta + 1e-8


@pytest.mark.parametrize("layer", IMAGES, **named)
def test_values_on_intervals_are_in_their_images(layer: Ranged) -> None:
    low, high = ends(layer)
    assert layer.image is not None
    least, most = layer.image(low, high)
    for u, v in pairs(low, high):
        for x in (u, v):
            y = layer.function(x)
            assert bool((y >= least - 1e-12 * y.abs()).all())
            assert bool((y <= most + 1e-12 * y.abs()).all())


@pytest.mark.parametrize("layer", [layer for layer in IMAGES if layer.alpha == -1 or layer.name == "erf"], **named)
def test_images_of_everything(layer: Ranged) -> None:
    assert layer.image is not None
    least, most = layer.image(torch.tensor([-math.inf]), torch.tensor([math.inf]))
    assert not bool(least.isnan() | most.isnan())
    assert float(most) in (1.0, math.inf)


def test_waves_are_met_at_their_peaks() -> None:
    """cos x on [low, high] is 1 where a multiple of 2 pi is inside, and -1 where an odd multiple of pi is."""
    assert layers.sine().within is not None
    for k in range(-5, 6):
        for peak, value in ((2 * k * math.pi, 1.0), ((2 * k + 1) * math.pi, -1.0)):
            for left, right in ((0.0, 0.0), (1e-9, 0.1), (0.1, 1e-9), (0.5, 0.5)):
                low, high = torch.tensor([peak - left]).double(), torch.tensor([peak + right]).double()
                found = layers.sine().within(low, high)[0 if value < 0 else 1]
                assert float(found) * value >= 1 - 1e-12
    narrow = layers.sine().within(torch.tensor([0.1]).double(), torch.tensor([0.2]).double())
    assert float(narrow[0]) == pytest.approx(math.cos(0.2))
    assert float(narrow[1]) == pytest.approx(math.cos(0.1))
    far = layers.sine().within(torch.tensor([1e12]).double(), torch.tensor([1e12]).double())
    assert [float(end) for end in far] == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("layer", "low", "high"),
    [
        (layers.root(), 0.0, 1.0), (layers.root(), -1.0, 1.0), (layers.logarithm(), 0.0, 1.0),
        (layers.logarithm(), -1.0, 1.0), (layers.logarithm(), -2.0, -1.0),
        (layers.reciprocal(), -1.0, 1.0), (layers.reciprocal(), 0.0, 1.0), (layers.real_power(0.5), -1.0, -0.5),
    ],
)  # fmt: skip
def test_where_nothing_is_known_slopes_are_infinite(layer: Activation, low: float, high: float) -> None:
    assert layer.within is not None
    alpha, beta = layer.within(torch.tensor([low]).double(), torch.tensor([high]).double())
    ends = (min(max(float(end), layer.alpha), layer.beta) for end in (alpha, beta))  # of what it has everywhere
    assert max(map(abs, ends)) == math.inf


def test_infinite_slopes_need_a_function_that_finds_finite_ones() -> None:
    with pytest.raises(ValueError, match="finite slopes"):
        Ranged("x^2", -math.inf, math.inf, torch.square)
    with pytest.raises(ValueError, match="in order"):
        Ranged("x^2", math.inf, -math.inf, torch.square, within=layers.power(2).within)
    with pytest.raises(ValueError, match="finite slopes"):
        Ranged("group", -math.inf, math.inf, torch.square, 2, layers.power(2).within)
    with pytest.raises(ValueError, match="finite slopes"):
        Activation("x^2", -math.inf, math.inf, torch.square)
