"""Smooth functions: those with slopes of their own, and those that are steep far from zero."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.reading.builder import Builder, Kind, Ref, Rule
from lipguard.trusted.reading.composing import curved, inverse
from lipguard.trusted.reading.constants import shifted


def _curve(make: Callable[[], layers.Activation]) -> Rule:
    """The rule of an element-wise function without parameters, or of what it makes of the functions before it."""

    def rule(builder: Builder, x: Ref) -> Ref:
        return curved(builder, x, make())

    return rule


def powered(builder: Builder, x: Any, exponent: Any) -> Ref:
    """x^p for a number p."""
    if isinstance(exponent, Tensor) and exponent.numel() == 1:
        exponent = exponent.item()
    if not isinstance(x, Ref) or not isinstance(exponent, (int, float)) or not math.isfinite(exponent):
        raise builder.unsupported("a power whose exponent is no number", "Use a constant one.")
    if exponent == 1:
        return x
    if exponent == 0:
        raise InvalidNetworkError(f"{builder.path}: a power with exponent 0 is 1, whatever it is of. Leave it out.")
    if exponent == -0.5:
        return inverse(builder, powered(builder, x, 0.5))
    if exponent < 0:
        return powered(builder, inverse(builder, x), -exponent)
    if exponent == 0.5:
        return curved(builder, x, layers.root())
    if float(exponent).is_integer():
        return builder.emit(layers.power(int(exponent)), x)
    return builder.emit(layers.real_power(float(exponent)), x)


def _square(builder: Builder, x: Ref) -> Ref:
    return powered(builder, x, 2)


def _inverse_root(builder: Builder, x: Ref) -> Ref:
    return powered(builder, x, -0.5)


def _exponential_less_one(builder: Builder, x: Ref) -> Ref:
    return shifted(builder, curved(builder, x, layers.exponential()), -1.0)


def _logarithm_of_one_more(builder: Builder, x: Ref) -> Ref:
    return curved(builder, shifted(builder, x, 1.0), layers.logarithm())


def _power_of(builder: Builder, base: Any, exponent: Any) -> Ref:
    """x ** p, or c ** x = exp(x log c)."""
    if isinstance(base, Ref) or not isinstance(exponent, Ref):
        return powered(builder, base, exponent)
    raise builder.unsupported("a power whose exponent depends on the input", "Write it as an exponential.")


KINDS: tuple[Kind, ...] = (
    Kind(_curve(layers.sine), functions=(torch.sin, "sin")),
    Kind(_curve(layers.cosine), functions=(torch.cos, "cos")),
    Kind(_curve(layers.error_function), functions=(torch.erf, "erf")),
    Kind(_curve(layers.exponential), functions=(torch.exp, "exp")),
    Kind(_exponential_less_one, functions=(torch.expm1, "expm1")),
    Kind(_curve(layers.logarithm), functions=(torch.log, "log")),
    Kind(_logarithm_of_one_more, functions=(torch.log1p, "log1p")),
    Kind(_curve(layers.root), functions=(torch.sqrt, "sqrt")),
    Kind(_inverse_root, functions=(torch.rsqrt, "rsqrt")),
    Kind(_curve(layers.reciprocal), functions=(torch.reciprocal, "reciprocal")),
    Kind(_square, functions=(torch.square, "square")),
    Kind(_power_of, functions=(torch.pow, "pow", operator.pow)),
)
