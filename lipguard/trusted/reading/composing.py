"""Several operations in a row that are one function: steep on the way, they have bounded slopes together.

Every row is an identity between functions of real numbers. Where its factors are rounded, they say so. A layer is known
by the function that it computes: a name could be anyone's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from lipguard.trusted import layers
from lipguard.trusted.layers import Layer, Linear, Pick, Reshape
from lipguard.trusted.reading.builder import Builder, Ref
from lipguard.trusted.reading.chains import (
    ULPS,
    Line,
    computes,
    function_of,
    keywords,
    keywords_of,
    line_of,
    number,
    source_of,
)


def curved(builder: Builder, x: Ref, layer: layers.Activation) -> Ref:
    """An element-wise function, or what it and the operations before it are together."""
    rows: dict[Callable[..., Any], Callable[[Builder, Ref], Ref | None]] = {
        torch.sqrt: _length, torch.log: _softplus, torch.reciprocal: _inverse, torch.exp: _bell,
    }  # fmt: skip
    row = rows.get(layer.function)
    return (row(builder, x) if row is not None else None) or builder.emit(layer, x)


def inverse(builder: Builder, x: Ref) -> Ref:
    """1 / x."""
    return curved(builder, x, layers.reciprocal())


def _length(builder: Builder, x: Ref) -> Ref | None:
    """sqrt(c q^2 + f) = sqrt(c) sqrt(f / c + q^2), of single entries or of sums of squares.

    Its slopes do not depend on f, so f / c may be rounded.
    """
    line = line_of(builder, x)
    q = _squared(builder, line.x)
    if q is None:
        return _length_of_group(builder, line)
    if not _is_length(line):
        return None
    eps = line.shift / line.factor
    return _rooted(builder, builder.emit(layers.absolute() if eps == 0 else layers.smooth_length(eps), q), line)


def _is_length(line: Line) -> bool:
    return line.factor > 0 and line.shift >= 0 and math.isfinite(line.shift / line.factor)


def _rooted(builder: Builder, x: Ref, line: Line) -> Ref:
    """The root of a line's factor times a value."""
    return x if not line.steps else builder.emit(number(math.sqrt(line.factor), line.ulps + ULPS), x)


def _length_of_group(builder: Builder, line: Line) -> Ref | None:
    """Where a line is of a sum or a mean of squares: all that is done to squares is done to q in their place."""
    x, behind = _peeled(builder, line.x, (Reshape,))
    inner = line_of(builder, x)
    if not inner.shift:
        ulps, steps = line.ulps + inner.ulps + 1, line.steps + inner.steps
        line = Line(inner.x, line.factor * inner.factor, line.shift, ulps, steps)
    total = builder.nodes[line.x.index].layer
    if not (_is_length(line) and isinstance(total, Linear) and len(total.weight) == 1 and not total.weight_ulps):
        return None
    if total.bias is not None or not bool((total.weight == 1).all()):
        return None
    squares, before = _peeled(builder, source_of(builder, line.x), (Reshape, Pick))
    q = _squared(builder, squares)
    if q is None:
        return None
    q = _again(builder, q, before)
    layer = layers.groups.smooth_length(q.shape[-1], line.shift / line.factor)[0]
    y = _rooted(builder, first_of_group(builder, builder.emit(layer, q)), line)
    return _again(builder, y, behind)


def _peeled(builder: Builder, x: Ref, kinds: tuple[type[Layer], ...]) -> tuple[Ref, list[Layer]]:
    """What some layers, the last of a value, read, and these, the first one first."""
    found: list[Layer] = []
    while isinstance(builder.nodes[x.index].layer, kinds):
        found.insert(0, builder.nodes[x.index].layer)
        x = source_of(builder, x)
    return x, found


def _again(builder: Builder, x: Ref, found: list[Layer]) -> Ref:
    for layer in found:
        x = builder.emit(layer, x)
    return x


def first_of_group(builder: Builder, x: Ref) -> Ref:
    """The first entry of the last axis, which is kept: what is one number per group."""
    if x.shape[-1] == 1:
        return x
    index = torch.arange(math.prod(x.shape)).reshape(x.shape)[..., :1]
    return builder.emit(Pick(index.contiguous()), x)


def _softplus(builder: Builder, x: Ref) -> Ref | None:
    """log(1 + e^q)."""
    line = line_of(builder, x)
    if (line.factor, line.shift) != (1, 1) or line.ulps or not computes(builder, line.x, torch.exp):
        return None
    return builder.emit(layers.softplus(threshold=math.inf), source_of(builder, line.x))


def _inverse(builder: Builder, x: Ref) -> Ref | None:
    """1 / (1 + e^q) = sigmoid(-q), and 1 / (f + c q^2) = h(sqrt(c / f) q) / f for h(v) = 1 / (1 + v^2)."""
    line = line_of(builder, x)
    if (line.factor, line.shift) == (1, 1) and not line.ulps and computes(builder, line.x, torch.exp):
        return builder.emit(layers.sigmoid(), builder.emit(number(-1.0), source_of(builder, line.x)))
    q = _squared(builder, line.x)
    if q is None or not (line.factor > 0 and line.shift > 0):
        return None
    inner = builder.emit(number(math.sqrt(line.factor / line.shift), line.ulps + ULPS), q)
    return builder.emit(number(1 / line.shift, 1), builder.emit(layers.lorentz(), inner))


def _bell(builder: Builder, x: Ref) -> Ref | None:
    """exp(-c q^2) = h(sqrt(c) q) for h(v) = exp(-v^2)."""
    line = line_of(builder, x)
    q = _squared(builder, line.x)
    if q is None or not line.factor < 0 or line.shift:
        return None
    return builder.emit(layers.bell(), builder.emit(number(math.sqrt(-line.factor), line.ulps + ULPS), q))


def _squared(builder: Builder, x: Ref) -> Ref | None:
    """q where x is q^2."""
    square = layers.power(2).function
    if computes(builder, x, function_of(layers.power(2))) and keywords(builder, x) == keywords_of(square):
        return source_of(builder, x)
    return None
