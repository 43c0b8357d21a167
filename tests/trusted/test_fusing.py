"""Functions that are written out: read as the one function that they are, with its slopes, and not as products."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.forward import Forward
from helpers.sandwich import assert_sandwich
from torch import Tensor, nn

import lipguard
from lipguard.errors import InvalidNetworkError, UnsupportedLayerError
from lipguard.trusted.reading.trace import trace

WRITTEN: dict[str, tuple[Any, float]] = {  # with the largest slope
    "x sigmoid(x)": (lambda x: x * torch.sigmoid(x), 1.0998393201288671),
    "sigmoid(x) x": (lambda x: torch.sigmoid(x) * x, 1.0998393201288671),
    "x sigmoid(1.7 x)": (lambda x: x * torch.sigmoid(1.7 * x), 1.0998393201288671),
    "x / (1 + exp(-x))": (lambda x: x / (1 + torch.exp(-x)), 1.0998393201288671),
    "x tanh(softplus(x))": (lambda x: x * torch.tanh(F.softplus(x)), 1.0884981612517280),
    "x tanh(x)": (lambda x: x * torch.tanh(x), 1.1996786402577344),
    "x relu6(x + 3) / 6": (lambda x: x * F.relu6(x + 3) / 6, 1.5),
    "x clamp(x + 3, 0, 6) / 6": (lambda x: x * torch.clamp(x + 3, 0, 6) / 6, 1.5),
    "x hardsigmoid(x)": (lambda x: x * F.hardsigmoid(x), 1.5),
    "x / 2 (1 + erf(x / sqrt 2))": (lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), 1.1289041451851549),
    "x / (1 + |x|)": (lambda x: x / (1 + x.abs()), 1.0),
    "2 x / (4 + 3 |x|)": (lambda x: 2 * x / (4 + 3 * x.abs()), 0.5),
    "x / sqrt(1 + x^2)": (lambda x: x / torch.sqrt(1 + x * x), 1.0),
    "x rsqrt(4 + x^2)": (lambda x: x * torch.rsqrt(4 + x**2), 0.5),
    "sqrt(1 + x^2)": (lambda x: torch.sqrt(1 + x**2), 1.0),
    "(9 x^2 + 1)^0.5": (lambda x: (9 * x.pow(2) + 1) ** 0.5, 3.0),
    "sqrt(x^2)": (lambda x: x.square().sqrt(), 1.0),
    "log(1 + e^x)": (lambda x: torch.log(1 + torch.exp(x)), 1.0),
    "log1p(e^x)": (lambda x: torch.log1p(x.exp()), 1.0),
    "1 / (1 + e^-x)": (lambda x: 1 / (1 + torch.exp(-x)), 0.25),
    "exp(-x^2 / 2)": (lambda x: torch.exp(-(x**2) / 2), math.exp(-0.5)),
    "1 / (1 + 4 x^2)": (lambda x: 1 / (1 + 4 * x * x), 2 * 0.6495190528383291),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_it_is_one_function_with_its_own_slopes(name: str) -> None:
    function, slope = WRITTEN[name]
    network = trace(Forward(lambda m, x: function(x)), (3,))
    assert not network.steep
    report = assert_sandwich(Forward(lambda m, x: function(x)), (3,))
    assert report.bound == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * torch.sigmoid(x.flip(1)),
        lambda x: x * torch.sigmoid(x * torch.tensor([1.0, 2.0, 3.0])),
        lambda x: x * F.relu6(x + 2),
        lambda x: x * F.relu6(2 * x + 3),
        lambda x: x * torch.clamp(x + 3, 0, 5),
        lambda x: x / (x.abs() - 1),
        lambda x: x * x.relu(),
        lambda x: torch.log(3 + torch.exp(x)),
        lambda x: torch.log(1 + 2 * torch.exp(x)),
        lambda x: torch.exp(x**2),
        lambda x: torch.sqrt(1 - x**2 / 1e9),
        lambda x: torch.sqrt(1 + x**3 / 1e9),
        lambda x: 1 / (1 - 1e9 * x**2),
    ],
)
def test_what_only_looks_like_one_is_not(function: Any) -> None:
    with pytest.raises(UnsupportedLayerError):  # and not only because it is another function than the module's
        lipguard.certify(Forward(lambda m, x: function(x)), (3,))


def test_a_registered_module_of_a_known_name_is_not_the_known_function() -> None:
    class sigmoid(nn.Module):  # noqa: N801
        def forward(self, x: Tensor) -> Tensor:
            return 0.3 * x

    lipguard.register(sigmoid, slope=(0.0, 0.3))
    model = Forward(lambda m, x: x * m.of(x), of=sigmoid())
    with pytest.raises(UnsupportedLayerError, match="the product"):
        lipguard.certify(model, (2,))


def test_sums_and_means_of_squares_are_lengths() -> None:
    for function, constant in (
        (lambda x: x.pow(2).sum((1, 2), keepdim=True).sqrt(), 1.0),
        (lambda x: torch.sqrt(1e-6 + (3 * x).square().mean(2)), math.sqrt(3.0)),
        (lambda x: torch.sqrt((x * x).sum(1) + 1), 1.0),
    ):
        report = assert_sandwich(Forward(lambda m, x, f=function: f(x)), (2, 3))
        assert report.bound == pytest.approx(constant, rel=1e-6)


def test_a_factor_beyond_double_precision_is_refused() -> None:
    with pytest.raises(InvalidNetworkError, match="beyond what double precision can hold"):
        trace(Forward(lambda m, x: x * torch.sigmoid(1e-305 * x)), (2,))
