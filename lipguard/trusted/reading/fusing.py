"""Several operations in a row that are one function: written out it is steep on the way, and has bounded slopes itself.

Every row is an identity between functions of real numbers. Where its factors are rounded, they say so. A layer is known
by the function that it computes: a name could be anyone's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lipguard.trusted import layers
from lipguard.trusted.layers import Layer, Linear, Pick, Reshape, Scale
from lipguard.trusted.reading.builder import Builder, Ref

_ULPS = 8  # of a factor that is a root or a quotient


class _Line(NamedTuple):
    """factor x + shift, with numbers."""

    x: Ref
    factor: float = 1.0
    shift: float = 0.0
    ulps: int = 0  # of the factor


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


def fused(builder: Builder, x: Ref, y: Ref) -> Ref | None:
    """x y, where it is one function of one value; None where it is not known to be one."""
    return _times(builder, x, y) or _times(builder, y, x)


def _times(builder: Builder, x: Ref, y: Ref) -> Ref | None:
    """x y for an x that y is a function of, factors and summands of either aside."""
    found = builder.emit(layers.power(2), x) if x.index == y.index else _of_itself(builder, x, y)
    if found is not None:
        return found
    for one, other in ((y, x), (x, y)):  # (a u + b) v = a (u v) + b v
        layer, u = builder.nodes[one.index].layer, _before(builder, one)
        if isinstance(layer, Scale) and layer.bias_terms is None and u is not None and one.shape == u.shape:
            found = _times(builder, x, u) if one is y else _times(builder, u, y)
            if found is None:
                continue
            product = builder.emit(Scale(layer.scale, None, layer.weight_ulps), found)
            if layer.bias is None or not bool(layer.bias.any()):
                return product
            return builder.emit(layers.Add(), product, builder.emit(Scale(layer.bias), other))
    return _of_itself(builder, x, y)


def _of_itself(builder: Builder, x: Ref, y: Ref) -> Ref | None:
    """x g(q) for q = d x + e: (q g(q) - e g(q)) / d."""
    read = _before(builder, y)
    if read is None:
        return None
    is_six = _is_relu6(builder, y)
    for q, own in _products(builder, y, read):
        d, e = _line_from(builder, q, x) or (None, 0.0)
        if d is None:
            continue
        if is_six:
            return builder.emit(_number(6.0), builder.emit(layers.hardswish(), x)) if (d.factor, e) == (1, 3) else None
        found = own(builder, q)
        if e:
            found = builder.emit(layers.Add(), found, builder.emit(_number(-e), y))
        if d.factor == 1:
            return found
        return builder.emit(_number(1 / d.factor, d.ulps + 1), found)
    return None


def _products(builder: Builder, y: Ref, read: Ref) -> list[tuple[Ref, Callable[[Builder, Ref], Ref]]]:
    """(q, how to emit q g(q)) for every way in which y is known as g(q)."""
    if _is(builder, y, torch.sigmoid):
        return [(read, lambda b, q: b.emit(layers.silu(), q))]
    if _is(builder, y, F.hardsigmoid):
        return [(read, lambda b, q: b.emit(layers.hardswish(), q))]
    if _is(builder, y, torch.erf):
        return [(read, lambda b, q: b.emit(layers.times_erf(), q))]
    if _is_relu6(builder, y):
        return [(read, lambda b, q: q)]
    if _is(builder, y, torch.tanh):
        bent: Callable[[Builder, Ref], Ref] = lambda b, q: b.emit(layers.times_tanh(), q)  # noqa: E731
        inner = _before(builder, read)
        usual = _keywords_of(layers.softplus().function)
        if inner is not None and _is(builder, read, F.softplus) and _keywords(builder, read) == usual:
            return [(inner, lambda b, q: b.emit(layers.mish(), q)), (read, bent)]
        return [(read, bent)]
    if _is(builder, y, torch.pow) and isinstance(_keywords(builder, y)["exponent"], int):
        power = layers.power(_keywords(builder, y)["exponent"] + 1)
        return [(read, lambda b, q: b.emit(power, q))]
    if _is(builder, y, torch.reciprocal):
        return _over(builder, _line(builder, read))
    return []


def _over(builder: Builder, below: _Line) -> list[tuple[Ref, Callable[[Builder, Ref], Ref]]]:
    """q / (c |q| + f) = softsign(c q / f) / c, and q / (c sqrt(eps + q^2)) by slopes that are known."""
    q, c, f = _before(builder, below.x), below.factor, below.shift
    if q is None or c <= 0:
        return []
    if _is(builder, below.x, torch.abs) and f > 0:

        def bent(b: Builder, q: Ref) -> Ref:
            inner = b.emit(_number(c / f, below.ulps + 1), q)
            return b.emit(_number(1 / c, below.ulps + 1), b.emit(layers.softsign(), inner))

        return [(q, bent)]
    if _is(builder, below.x, _function_of(layers.smooth_length(1.0))) and f == 0:
        eps = _keywords(builder, below.x)["eps"]
        if eps > 0:
            factor = _number(1 / (c * math.sqrt(eps)), below.ulps + _ULPS)
            return [(q, lambda b, q: b.emit(factor, b.emit(layers.normalised(eps), q)))]
    return []


def _length(builder: Builder, x: Ref) -> Ref | None:
    """sqrt(c q^2 + f) = sqrt(c) sqrt(f / c + q^2), of single entries or of sums of squares.

    Its slopes do not depend on f, so f / c may be rounded.
    """
    line = _line(builder, x)
    q = _squared(builder, line.x)
    if q is None:
        return _length_of_group(builder, line)
    if not _is_length(line):
        return None
    eps = line.shift / line.factor
    return _rooted(builder, builder.emit(layers.absolute() if eps == 0 else layers.smooth_length(eps), q), line)


def _is_length(line: _Line) -> bool:
    return line.factor > 0 and line.shift >= 0 and math.isfinite(line.shift / line.factor)


def _rooted(builder: Builder, x: Ref, line: _Line) -> Ref:
    """The root of a line's factor times a value."""
    return x if line.factor == 1 else builder.emit(_number(math.sqrt(line.factor), line.ulps + _ULPS), x)


def _length_of_group(builder: Builder, line: _Line) -> Ref | None:
    """Where a line is of a sum or a mean of squares: all that is done to squares is done to q in their place."""
    x, behind = _peeled(builder, line.x, (Reshape,))
    inner = _line(builder, x)
    if not inner.shift:
        line = _Line(inner.x, line.factor * inner.factor, line.shift, line.ulps + inner.ulps + 1)
    total = builder.nodes[line.x.index].layer
    if not (_is_length(line) and isinstance(total, Linear) and len(total.weight) == 1 and not total.weight_ulps):
        return None
    if total.bias is not None or not bool((total.weight == 1).all()):
        return None
    squares, before = _peeled(builder, _source(builder, line.x), (Reshape, Pick))
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
        x = _source(builder, x)
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
    line = _line(builder, x)
    if (line.factor, line.shift) != (1, 1) or line.ulps or not _is(builder, line.x, torch.exp):
        return None
    return builder.emit(layers.softplus(threshold=math.inf), _source(builder, line.x))


def _inverse(builder: Builder, x: Ref) -> Ref | None:
    """1 / (1 + e^q) = sigmoid(-q), and 1 / (f + c q^2) = h(sqrt(c / f) q) / f for h(v) = 1 / (1 + v^2)."""
    line = _line(builder, x)
    if (line.factor, line.shift) == (1, 1) and not line.ulps and _is(builder, line.x, torch.exp):
        return builder.emit(layers.sigmoid(), builder.emit(_number(-1.0), _source(builder, line.x)))
    q = _squared(builder, line.x)
    if q is None or not (line.factor > 0 and line.shift > 0):
        return None
    inner = builder.emit(_number(math.sqrt(line.factor / line.shift), line.ulps + _ULPS), q)
    return builder.emit(_number(1 / line.shift, 1), builder.emit(layers.lorentz(), inner))


def _bell(builder: Builder, x: Ref) -> Ref | None:
    """exp(-c q^2) = h(sqrt(c) q) for h(v) = exp(-v^2)."""
    line = _line(builder, x)
    q = _squared(builder, line.x)
    if q is None or not line.factor < 0 or line.shift:
        return None
    return builder.emit(layers.bell(), builder.emit(_number(math.sqrt(-line.factor), line.ulps + _ULPS), q))


def _squared(builder: Builder, x: Ref) -> Ref | None:
    """q where x is q^2."""
    square = layers.power(2).function
    if _is(builder, x, _function_of(layers.power(2))) and _keywords(builder, x) == _keywords_of(square):
        return _source(builder, x)
    return None


def _number(value: float, ulps: int = 0) -> Scale:
    return Scale(torch.full((1,), value, dtype=torch.float64), weight_ulps=ulps)


def _line(builder: Builder, x: Ref) -> _Line:
    """A value as a number times another, and a number: a shift of a multiple, or either of them."""
    source, factor, shift, ulps = x, 1.0, 0.0, 0
    first = _numbers(builder, x)
    if first is not None:
        (factor, shift), ulps, source = first, _layer(builder, x).weight_ulps, _source(builder, x)
        second = _numbers(builder, source)
        if factor == 1 and not ulps and second is not None and second[1] == 0:
            factor, ulps, source = second[0], _layer(builder, source).weight_ulps, _source(builder, source)
    return _Line(source, factor, shift, ulps)


def _line_from(builder: Builder, q: Ref, x: Ref) -> tuple[_Line, float] | None:
    """(d, e) where q = d x + e, one of which is nothing."""
    if q.index == x.index:
        return _Line(x), 0.0
    line = _line(builder, q)
    if line.x.index != x.index or line.factor == 0 or (line.shift and line.factor != 1):
        return None
    return line, line.shift


def _numbers(builder: Builder, x: Ref) -> tuple[float, float] | None:
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


def _before(builder: Builder, x: Ref) -> Ref | None:
    """What a node with one input reads."""
    inputs = builder.nodes[x.index].inputs
    return Ref(inputs[0], builder.nodes[inputs[0]].shape) if len(inputs) == 1 else None


def _source(builder: Builder, x: Ref) -> Ref:
    found = _before(builder, x)
    assert found is not None
    return found


def _is_relu6(builder: Builder, x: Ref) -> bool:
    """max(0, min(6, x)), in any of the ways that it is written."""
    if _is(builder, x, F.relu6):
        return True
    names = {torch.clamp: ("min", "max"), F.hardtanh: ("min_val", "max_val")}
    return any(
        _is(builder, x, function) and [_keywords(builder, x)[name] for name in ends] == [0.0, 6.0]
        for function, ends in names.items()
    )


def _is(builder: Builder, x: Ref, function: object) -> bool:
    layer = builder.nodes[x.index].layer
    return isinstance(layer, layers.Activation) and layer.group == 1 and _function_of(layer) is function


def _function_of(layer: layers.Activation) -> object:
    return layer.function.func if isinstance(layer.function, partial) else layer.function


def _keywords(builder: Builder, x: Ref) -> dict[str, Any]:
    layer = builder.nodes[x.index].layer
    assert isinstance(layer, layers.Activation)
    return _keywords_of(layer.function)


def _keywords_of(function: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return dict(function.keywords) if isinstance(function, partial) else {}
