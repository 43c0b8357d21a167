"""The slope range of every activation, on pairs of points: it holds, and it is no wider than it must be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lipguard.trusted.layers import Activation
from lipguard.trusted.reading.trace import trace

SLOPES = (0.01, 0.0, 1.0, 1.5, -0.3, -2.0)
ALPHAS = (1.0, 0.5, 2.0, 0.0, -0.5, -3.0)
ACTIVATIONS: list[nn.Module] = [
    nn.ReLU(),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.Mish(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.Hardtanh(-0.5, 2.0),
    nn.ReLU6(),
    nn.Softplus(),
    nn.Softplus(3.0),
    nn.Softsign(),
    nn.LogSigmoid(),
    nn.Tanhshrink(),
    nn.Softshrink(0.2),
    nn.SELU(),
    nn.CELU(0.7),
    *(nn.LeakyReLU(slope) for slope in SLOPES),
    *(nn.ELU(alpha) for alpha in ALPHAS),
]


def layer_of(module: nn.Module) -> Activation:
    layer = trace(nn.Sequential(module).double().eval(), (1,)).nodes[1].layer
    assert isinstance(layer, Activation)
    return layer


def quotients(module: nn.Module) -> Tensor:
    """Difference quotients of near and far pairs, all over the line, next to the kink and across it."""
    generator = torch.Generator().manual_seed(0)
    x = 6 * torch.randn(4000, generator=generator, dtype=torch.float64)
    step = 10 ** (4 * torch.rand(4000, generator=generator, dtype=torch.float64) - 3)
    kink = torch.tensor([-2e-4, -1e-4, 1e-4], dtype=torch.float64)
    far = torch.linspace(-90, 90, 501, dtype=torch.float64)
    x = torch.cat([x, -step / 2, kink, torch.linspace(-9, 9, 20001, dtype=torch.float64), far])
    y = torch.cat([x[:4000] + step, step / 3, x[8000:] + 1e-4])
    return (module(y) - module(x)) / (y - x)


@pytest.mark.parametrize("module", ACTIVATIONS, ids=str)
def test_difference_quotients_lie_in_the_slope_range(module: nn.Module) -> None:
    layer, found = layer_of(module), quotients(module)
    assert layer.alpha - 1e-9 <= float(found.min())
    assert float(found.max()) <= layer.beta + 1e-9


@pytest.mark.parametrize("module", ACTIVATIONS, ids=str)
def test_the_slope_range_is_the_smallest(module: nn.Module) -> None:
    layer, found = layer_of(module), quotients(module)
    assert float(found.min()) <= layer.alpha + 1e-3
    assert layer.beta - 1e-3 <= float(found.max())


@pytest.mark.parametrize("module", ACTIVATIONS, ids=str)
def test_the_lipschitz_constant_is_the_largest_magnitude_of_a_slope(module: nn.Module) -> None:
    largest = float(quotients(module).abs().max())
    assert layer_of(module).lipschitz == pytest.approx(largest, abs=1e-3)


@given(st.sampled_from(ACTIVATIONS), st.floats(-50, 50), st.floats(-50, 50))
def test_the_sector_inequality_holds_for_any_two_points(module: nn.Module, u: float, v: float) -> None:
    """(b - alpha a)(b - beta a) <= 0 is what every multiplier of the LMI relies on."""
    layer = layer_of(module)
    a = u - v
    b = float(module(torch.tensor([u], dtype=torch.float64)) - module(torch.tensor([v], dtype=torch.float64)))
    assert (b - layer.alpha * a) * (b - layer.beta * a) <= 1e-12 * max(1.0, a * a)


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(-30, 30), st.floats(-30, 30))
def test_slope_ranges_of_any_parameter(slope: float, alpha: float, u: float, v: float) -> None:
    for module in (nn.LeakyReLU(slope), nn.ELU(alpha)):
        layer = layer_of(module)
        a = u - v
        b = float(module(torch.tensor([u], dtype=torch.float64)) - module(torch.tensor([v], dtype=torch.float64)))
        assert (b - layer.alpha * a) * (b - layer.beta * a) <= 1e-11 * max(1.0, a * a)
