"""What the last operations are, as rules that look back see them: numbers times a value, and functions by identity."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.layers import Scale
from lipguard.trusted.reading.builder import Builder, Ref

ULPS = 8  # of a factor that is a root or a quotient


class Line(NamedTuple):
    """factor x + shift, with numbers."""

    x: Ref
    factor: float = 1.0
    shift: float = 0.0
    ulps: int = 0  # of the factor
    steps: int = 0  # layers that say so
    has_shift: bool = False  # whether one of them has one, be it zero


def number(value: float, ulps: int = 0) -> Scale:
    """A factor of all entries.

    Raises:
        InvalidNetworkError: it is so large or so small that its rounding would not be a relative one.
    """
    if not 2.0**-1000 < abs(value) < 2.0**1000:
        raise InvalidNetworkError(
            f"The factor {value:g} of a function that is written out is beyond what double precision can hold. Rescale "
            "its constants."
        )
    return Scale(torch.full((1,), value, dtype=torch.float64), weight_ulps=ulps)


def line_of(builder: Builder, x: Ref) -> Line:
    """A value as a number times another, and a number: of multiples of multiples, with one shift among them."""
    line = Line(x)
    while (found := _factor_and_shift(builder, line.x)) is not None:
        factor, shift = found
        if shift and (line.shift or abs(line.factor) != 1 or line.ulps):
            break
        rounded = 1 not in (abs(factor), abs(line.factor))
        ulps = line.ulps + _layer(builder, line.x).weight_ulps + rounded
        shifts = line.has_shift or _layer(builder, line.x).bias is not None
        shift = line.shift + line.factor * shift
        line = Line(source_of(builder, line.x), line.factor * factor, shift, ulps, line.steps + 1, shifts)
    return line


def _factor_and_shift(builder: Builder, x: Ref) -> tuple[float, float] | None:
    """(factor, shift) of a Scale that has the same ones for all entries."""
    layer = builder.nodes[x.index].layer
    if not isinstance(layer, Scale) or layer.bias_terms is not None:
        return None
    bias = torch.zeros(1, dtype=torch.float64) if layer.bias is None else layer.bias
    same = bool((layer.scale == layer.scale.flatten()[0]).all()) and bool((bias == bias.flatten()[0]).all())
    return (float(layer.scale.flatten()[0]), float(bias.flatten()[0])) if same else None


def _layer(builder: Builder, x: Ref) -> Scale:
    layer = builder.nodes[x.index].layer
    assert isinstance(layer, Scale)
    return layer


def before(builder: Builder, x: Ref) -> Ref | None:
    """What a node with one input reads."""
    inputs = builder.nodes[x.index].inputs
    return Ref(inputs[0], builder.nodes[inputs[0]].shape) if len(inputs) == 1 else None


def source_of(builder: Builder, x: Ref) -> Ref:
    """The same of a node that is known to have one."""
    found = before(builder, x)
    assert found is not None
    return found


def is_relu6(builder: Builder, x: Ref) -> bool:
    """max(0, min(6, x)), in any of the ways that it is written."""
    if computes(builder, x, F.relu6):
        return True
    names = {torch.clamp: ("min", "max"), F.hardtanh: ("min_val", "max_val")}
    return any(
        computes(builder, x, function) and [keywords(builder, x)[name] for name in ends] == [0.0, 6.0]
        for function, ends in names.items()
    )


def computes(builder: Builder, x: Ref, function: object) -> bool:
    """Whether a value is what a function, with any parameters, makes of single entries."""
    layer = builder.nodes[x.index].layer
    return isinstance(layer, layers.Activation) and layer.group == 1 and function_of(layer) is function


def function_of(layer: layers.Activation) -> object:
    """What it computes, without its parameters."""
    return layer.function.func if isinstance(layer.function, partial) else layer.function


def keywords(builder: Builder, x: Ref) -> dict[str, Any]:
    """The parameters of the activation that made a value."""
    layer = builder.nodes[x.index].layer
    assert isinstance(layer, layers.Activation)
    return keywords_of(layer.function)


def keywords_of(function: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The parameters of a function."""
    return dict(function.keywords) if isinstance(function, partial) else {}
