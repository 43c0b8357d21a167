"""Products that are one function of one value: x sigmoid(x), x / (1 + |x|), x relu6(x + 3) / 6 and the like."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from lipguard.trusted import layers
from lipguard.trusted.layers import Scale
from lipguard.trusted.reading.builder import Builder, Ref
from lipguard.trusted.reading.chains import (
    ULPS,
    Line,
    before,
    computes,
    function_of,
    is_relu6,
    keywords,
    keywords_of,
    line_of,
    number,
)


def fused(builder: Builder, x: Ref, y: Ref) -> Ref | None:
    """x y, where it is one function of one value; None where it is not known to be one."""
    return _times(builder, x, y) or _times(builder, y, x)


def _times(builder: Builder, x: Ref, y: Ref) -> Ref | None:
    """x y for an x that y is a function of, factors and summands of either aside."""
    found = builder.emit(layers.power(2), x) if x.index == y.index else _of_itself(builder, x, y)
    if found is not None:
        return found
    for one, other in ((y, x), (x, y)):  # (a u + b) v = a (u v) + b v
        layer, u = builder.nodes[one.index].layer, before(builder, one)
        if isinstance(layer, Scale) and layer.bias_terms is None and u is not None and one.shape == u.shape:
            found = _times(builder, x, u) if one is y else _times(builder, u, y)
            if found is None:
                continue
            product = builder.emit(Scale(layer.scale, None, layer.weight_ulps), found)
            if layer.bias is None:
                return product
            return builder.emit(layers.Add(), product, builder.emit(Scale(layer.bias, weight_ulps=1), other))
    return None


def _of_itself(builder: Builder, x: Ref, y: Ref) -> Ref | None:
    """x g(q) for q = d x + e: (q g(q) - e g(q)) / d.

    Which nodes are emitted does not depend on the numbers: whoever lowers a graph again may have other ones.
    """
    read = before(builder, y)
    if read is None:
        return None
    for q, own in _products(builder, y, read):
        line = Line(x) if q.index == x.index else line_of(builder, q)
        if line.x.index != x.index or line.factor == 0 or (line.shift and line.factor != 1):
            continue
        if is_relu6(builder, y):
            known = (line.factor, line.shift) == (1, 3)
            return builder.emit(number(6.0), builder.emit(layers.hardswish(), x)) if known else None
        found = own(builder, q)
        if line.has_shift:
            less = Scale(torch.full((1,), -line.shift, dtype=torch.float64), weight_ulps=1)
            found = builder.emit(layers.Add(), found, builder.emit(less, y))
        return builder.emit(number(1 / line.factor, line.ulps + 1), found) if line.steps else found
    return None


def _products(builder: Builder, y: Ref, read: Ref) -> list[tuple[Ref, Callable[[Builder, Ref], Ref]]]:
    """(q, how to emit q g(q)) for every way in which y is known as g(q)."""
    if computes(builder, y, torch.sigmoid):
        return [(read, lambda b, q: b.emit(layers.silu(), q))]
    if computes(builder, y, F.hardsigmoid):
        return [(read, lambda b, q: b.emit(layers.hardswish(), q))]
    if computes(builder, y, torch.erf):
        return [(read, lambda b, q: b.emit(layers.times_erf(), q))]
    if is_relu6(builder, y):
        return [(read, lambda b, q: q)]
    if computes(builder, y, torch.tanh):
        bent: Callable[[Builder, Ref], Ref] = lambda b, q: b.emit(layers.times_tanh(), q)  # noqa: E731
        inner = before(builder, read)
        usual = keywords_of(layers.softplus().function)
        if inner is not None and computes(builder, read, F.softplus) and keywords(builder, read) == usual:
            return [(inner, lambda b, q: b.emit(layers.mish(), q)), (read, bent)]
        return [(read, bent)]
    if computes(builder, y, torch.pow) and isinstance(keywords(builder, y)["exponent"], int):
        power = layers.power(keywords(builder, y)["exponent"] + 1)
        return [(read, lambda b, q: b.emit(power, q))]
    if computes(builder, y, torch.reciprocal):
        return _over(builder, line_of(builder, read))
    return []


def _over(builder: Builder, below: Line) -> list[tuple[Ref, Callable[[Builder, Ref], Ref]]]:
    """q / (c |q| + f) = softsign(c q / f) / c, and q / (c sqrt(eps + q^2)) by slopes that are known."""
    q, c, f = before(builder, below.x), below.factor, below.shift
    if q is None or c <= 0:
        return []
    if computes(builder, below.x, torch.abs) and f > 0:

        def bent(b: Builder, q: Ref) -> Ref:
            inner = b.emit(number(c / f, below.ulps + 1), q)
            return b.emit(number(1 / c, below.ulps + 1), b.emit(layers.softsign(), inner))

        return [(q, bent)]
    if computes(builder, below.x, function_of(layers.smooth_length(1.0))) and f == 0:
        eps = keywords(builder, below.x)["eps"]
        if eps > 0:
            factor = number(1 / (c * math.sqrt(eps)), below.ulps + ULPS)
            return [(q, lambda b, q: b.emit(factor, b.emit(layers.normalised(eps), q)))]
    return []
