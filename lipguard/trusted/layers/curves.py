"""Element-wise functions whose values are known on intervals, too; most of them have slopes on bounded domains only."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lipguard.trusted.layers import slopes
from lipguard.trusted.layers.activation import Activation
from lipguard.trusted.layers.ranged import Ranged

_INF = math.inf


def sine() -> Activation:
    """sin x: derivative cos x in [-1, 1]."""
    return Ranged("sin", -1.0, 1.0, torch.sin, within=partial(slopes.cosine, quarters=0), image=_within_one)


def cosine() -> Activation:
    """cos x: derivative -sin x = cos(x + pi / 2) in [-1, 1]."""
    return Ranged("cos", -1.0, 1.0, torch.cos, within=partial(slopes.cosine, quarters=1), image=_within_one)


def error_function() -> Activation:
    """erf x: derivative 2 / sqrt(pi) exp(-x^2) in (0, 1.1283791...]."""
    return Ranged("erf", 0.0, 1.1283791670955129, torch.erf, within=slopes.bump, image=partial(_rising, torch.erf))


def smooth_length(eps: float) -> Activation:
    """sqrt(eps + x^2) for eps >= 0: derivative x / sqrt(eps + x^2) in [-1, 1]."""
    function = partial(_smooth_length, eps=eps)
    return Ranged("sqrt(eps + x^2)", -1.0, 1.0, function, image=partial(_length_image, function))


def normalised(eps: float) -> Activation:
    """sqrt(eps) x / sqrt(eps + x^2) for eps > 0: derivative (eps / (eps + x^2))^(3/2) in (0, 1]."""
    return Activation("x / sqrt(eps + x^2)", 0.0, 1.0, partial(_normalised, eps=eps))


def times_tanh() -> Activation:
    """x tanh x = silu(2 x) - x: derivative tanh x + x / cosh^2 x, twice that of silu at 2 x less 1."""
    return Activation("x tanh x", -1.1996786402577344, 1.1996786402577344, _times_tanh)


def times_erf() -> Activation:
    """x erf x = sqrt(2) gelu(sqrt(2) x) - x: derivative erf x + 2 / sqrt(pi) x exp(-x^2), twice gelu's less 1."""
    return Activation("x erf x", -1.25780829037031, 1.25780829037031, _times_erf)


def bell() -> Activation:
    """exp(-x^2): derivative -2 x exp(-x^2), of largest magnitude sqrt(2 / e) = 0.857763... at +-sqrt(1/2)."""
    return Ranged("exp(-x^2)", -0.8577638849607069, 0.8577638849607069, _gaussian, image=_from_zero_to_one)


def lorentz() -> Activation:
    """1 / (1 + x^2): derivative -2 x / (1 + x^2)^2, of largest magnitude 3 sqrt(3) / 8 at +-sqrt(1/3)."""
    return Ranged("1 / (1 + x^2)", -0.6495190528383291, 0.6495190528383291, _lorentz, image=_from_zero_to_one)


def exponential() -> Activation:
    """e^x, which is its own derivative: its slopes grow without bound."""
    return Ranged("exp", 0.0, _INF, torch.exp, within=slopes.exponential, image=partial(_rising, torch.exp))


def power(exponent: int) -> Activation:
    """x^n for n of 2 or more, with the derivative n x^(n - 1): its slopes grow without bound."""
    least = 0.0 if exponent % 2 else -_INF
    within = partial(slopes.power, exponent=exponent)
    image = partial(_power_image, exponent=exponent)
    return Ranged(f"x^{exponent}", least, _INF, partial(torch.pow, exponent=exponent), within=within, image=image)


def real_power(exponent: float) -> Activation:
    """x^p for p > 0 where x is not negative: the derivative p x^(p - 1) is unbounded at zero or far from it."""
    within = partial(slopes.real_power, exponent=exponent)
    image = partial(_real_power_image, exponent=exponent)
    return Ranged(f"x^{exponent:g}", -_INF, _INF, partial(torch.pow, exponent=exponent), within=within, image=image)


def root() -> Activation:
    """sqrt x where x is positive, with the derivative 1 / (2 sqrt x), which is unbounded at zero."""
    within = partial(slopes.real_power, exponent=0.5)
    return Ranged("sqrt", 0.0, _INF, torch.sqrt, within=within, image=partial(_rising, torch.sqrt))


def reciprocal() -> Activation:
    """1 / x on either side of zero, with the derivative -1 / x^2."""
    return Ranged("1 / x", -_INF, 0.0, torch.reciprocal, within=slopes.reciprocal, image=_reciprocal_image)


def logarithm() -> Activation:
    """log x where x is positive, with the derivative 1 / x."""
    return Ranged("log", 0.0, _INF, torch.log, within=slopes.logarithm, image=partial(_rising, torch.log))


def _smooth_length(x: Tensor, eps: float) -> Tensor:
    return torch.hypot(x, torch.full_like(x, math.sqrt(eps)))


def _normalised(x: Tensor, eps: float) -> Tensor:
    return math.sqrt(eps) * x / _smooth_length(x, eps)


def _times_tanh(x: Tensor) -> Tensor:
    return x * torch.tanh(x)


def _times_erf(x: Tensor) -> Tensor:
    return x * torch.erf(x)


def _gaussian(x: Tensor) -> Tensor:
    return torch.exp(-x.square())


def _lorentz(x: Tensor) -> Tensor:
    return 1 / (1 + x.square())


def _rising(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return function(low), function(high)


def _power_image(low: Tensor, high: Tensor, exponent: int) -> tuple[Tensor, Tensor]:
    ends = low.pow(exponent), high.pow(exponent)
    turns = (low <= 0) & (high >= 0) & (exponent % 2 == 0)
    return torch.where(turns, 0.0, torch.minimum(*ends)), torch.maximum(*ends)


def _real_power_image(low: Tensor, high: Tensor, exponent: float) -> tuple[Tensor, Tensor]:
    ends = low.pow(exponent), high.pow(exponent)
    least, most = torch.minimum(*ends), torch.maximum(*ends)
    return torch.where(low >= 0, least, -torch.inf), torch.where(low >= 0, most, torch.inf)


def _reciprocal_image(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    apart = (low > 0) | (high < 0)
    return torch.where(apart, 1 / high, -torch.inf), torch.where(apart, 1 / low, torch.inf)


def _length_image(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Of an even function that rises with |x|."""
    nearest = torch.where((low <= 0) & (high >= 0), 0.0, torch.minimum(low.abs(), high.abs()))
    return function(nearest), function(torch.maximum(low.abs(), high.abs()))


def _within_one(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return torch.full_like(low, -1.0), torch.full_like(high, 1.0)


def _from_zero_to_one(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(low), torch.ones_like(high)
