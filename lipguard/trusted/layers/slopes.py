"""Difference quotients of activations whose arguments stay in intervals, entry by entry.

Every function takes the ends of the intervals, two float64 tensors of one shape with low <= high, and returns tensors
(alpha, beta) such that (f(u) - f(v)) / (u - v) is in [alpha, beta] for u, v in [low, high]. Computed derivatives are
moved outward by far more than their rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_SLACK, _TINY = 1e-12, 1e-300
_WAVE, _FAR = 1e-13, 1e9  # relative to x, how far a multiple of pi may be off; where that is no longer little


def stepwise(low: Tensor, high: Tensor, kinks: Sequence[float], slopes: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Of a continuous function that is linear between its kinks; `slopes` has one entry more than `kinks`."""
    alpha, beta = torch.full_like(low, torch.inf), torch.full_like(low, -torch.inf)
    edges = [-torch.inf, *kinks, torch.inf]
    for left, right, slope in zip(edges[:-1], edges[1:], slopes, strict=True):
        met = (low < right) & (high > left) | (low == high) & (low >= left) & (low <= right)
        alpha = torch.where(met, alpha.clamp(max=slope), alpha)
        beta = torch.where(met, beta.clamp(min=slope), beta)
    return alpha, beta


def tanh(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Derivative 4 q / (1 + q)^2 with q = exp(-2 |x|): it falls with |x|."""
    return _bell(low, high, 2.0, 4.0)


def sigmoid(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Derivative q / (1 + q)^2 with q = exp(-|x|): it falls with |x|."""
    return _bell(low, high, 1.0, 1.0)


def softplus(low: Tensor, high: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Derivative sigmoid(beta x): it rises for beta > 0, and falls for beta < 0."""
    ends = torch.sigmoid(beta * low), torch.sigmoid(beta * high)
    return _outward(torch.minimum(*ends), torch.maximum(*ends))


def elu(low: Tensor, high: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Derivative alpha exp(x) below zero, and 1 above."""
    ends = [alpha * torch.exp(low.clamp(max=0)), alpha * torch.exp(high.clamp(max=0))]
    bent = _outward(torch.minimum(*ends), torch.maximum(*ends))
    one, below, above = torch.ones_like(low), low < 0, high > 0
    least = torch.where(below, torch.where(above, bent[0].clamp(max=1), bent[0]), one)
    most = torch.where(below, torch.where(above, bent[1].clamp(min=1), bent[1]), one)
    return least, most


def _bell(low: Tensor, high: Tensor, rate: float, height: float) -> tuple[Tensor, Tensor]:
    def derivative(x: Tensor) -> Tensor:
        q = torch.exp(-rate * x)
        return height * q / (1 + q).square()

    nearest = torch.where((low <= 0) & (high >= 0), 0.0, torch.minimum(low.abs(), high.abs()))
    return _outward(derivative(torch.maximum(low.abs(), high.abs())), derivative(nearest))


def _outward(alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    return alpha - _SLACK * alpha.abs() - _TINY, beta + _SLACK * beta.abs() + _TINY


def cosine(low: Tensor, high: Tensor, quarters: int = 0) -> tuple[Tensor, Tensor]:
    """The range of cos(x + quarters pi / 2): the derivative of sin for 0, of cos for 1."""
    shift, turn = quarters * math.pi / 2, 2 * math.pi
    ends = torch.cos(low + shift), torch.cos(high + shift)

    def met(peak: float) -> Tensor:  # whether a point peak + 2 pi k is in the interval, or next to it
        near = _WAVE * (1 + high.abs())
        last = torch.floor((high + near + shift - peak) / turn) * turn + peak - shift
        return (last >= low - near) | ~(torch.maximum(low.abs(), high.abs()) < _FAR)

    alpha, beta = _outward(torch.minimum(*ends), torch.maximum(*ends))
    return torch.where(met(math.pi), -1.0, alpha), torch.where(met(0.0), 1.0, beta)


def exponential(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Derivative exp(x): it rises."""
    return _outward(torch.exp(low), torch.exp(high))


def power(low: Tensor, high: Tensor, exponent: int) -> tuple[Tensor, Tensor]:
    """Derivative n x^(n - 1), for n of 2 or more: it rises where n is even, and else grows with |x|."""
    ends = exponent * low.pow(exponent - 1), exponent * high.pow(exponent - 1)
    alpha, beta = _outward(torch.minimum(*ends), torch.maximum(*ends))
    return torch.where((low <= 0) & (high >= 0) & (exponent % 2 == 1), 0.0, alpha), beta


def real_power(low: Tensor, high: Tensor, exponent: float) -> tuple[Tensor, Tensor]:
    """Derivative p x^(p - 1), which is monotone where x is not negative; elsewhere nothing is known."""
    ends = exponent * low.pow(exponent - 1), exponent * high.pow(exponent - 1)
    return _where_positive(low, torch.minimum(*ends), torch.maximum(*ends))


def reciprocal(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Derivative -1 / x^2 on either side of zero; where zero is in the interval nothing is known."""
    ends = -1 / low.square(), -1 / high.square()
    alpha, beta = _outward(torch.minimum(*ends), torch.maximum(*ends))
    apart = (low > 0) | (high < 0)
    return torch.where(apart, alpha, -torch.inf), torch.where(apart, beta, 0.0)


def logarithm(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Derivative 1 / x, which falls where x is positive; elsewhere nothing is known."""
    return _where_positive(low, 1 / high, 1 / low)


def bump(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Derivative 2 / sqrt(pi) exp(-x^2), of the error function: it falls with |x|."""
    nearest = torch.where((low <= 0) & (high >= 0), 0.0, torch.minimum(low.abs(), high.abs()))
    furthest = torch.maximum(low.abs(), high.abs())
    height = 2 / math.sqrt(math.pi)
    return _outward(height * torch.exp(-furthest.square()), height * torch.exp(-nearest.square()))


def _where_positive(low: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    alpha, beta = _outward(alpha, beta)
    return torch.where(low >= 0, alpha, -torch.inf), torch.where(low >= 0, beta, torch.inf)
