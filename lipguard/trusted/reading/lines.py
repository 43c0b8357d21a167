"""Values as lines of what is behind their factors and shifts, and functions of one kink that are made of two of them.

With slopes a below the kink and b above, f(x) = (b + a) / 2 y + (b - a) / 2 |y| of y = x - kink, up to a constant: for
each entry of its own slopes, the constraint of slopes between a and b, and no longer. Where they are the same for all
entries, and b = 1, it is a LeakyReLU. Lines are rational numbers: whether two meet at the kink is decided exactly.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipguard.trusted import layers
from lipguard.trusted.reading.builder import Builder, Ref
from lipguard.trusted.reading.constants import expanded, met, scaled, shifted
from lipguard.trusted.reading.values import same

Rationals = NDArray[np.object_]  # of Fractions
_LEAST = 2.0**-1000  # far above the smallest normal number
_NUMBERS = 2**14  # numbers to look at one by one


@dataclass(frozen=True)
class Line:
    """slope x + shift, exactly, of the entries of a node; but for `ulps` relative roundings of the slope."""

    origin: Any  # as `same` tells nodes; None of a constant
    ref: Ref | None
    slope: Rationals
    shift: Rationals
    ulps: int = 0


@dataclass(frozen=True)
class Neuron:
    """An activation of one kink: its slopes, and its value at the kink."""

    ref: Ref
    right: Fraction
    left: Fraction
    height: Fraction


def line_of(builder: Builder, part: Any) -> Line | None:
    """A value as a line of the node behind all factors and shifts; None where their roundings are not known."""
    one, zero = np.array(Fraction(1), dtype=object), np.array(Fraction(0), dtype=object)
    if isinstance(part, Tensor):
        if part.numel() > _NUMBERS:
            return None
        return Line(None, None, zero, rationals(part))
    found = Line(None, part, one, zero)
    while isinstance(layer := builder.nodes[found.ref.index].layer, layers.Scale):  # type: ignore[union-attr]
        if layer.bias_terms is not None or layer.scale.numel() > _NUMBERS:
            return None
        (below,) = builder.nodes[found.ref.index].inputs  # type: ignore[union-attr]
        shift = 0 if layer.bias is None else found.slope * rationals(layer.bias)
        ref = Ref(below, builder.nodes[below].shape)
        slope = found.slope * rationals(layer.scale)
        found = Line(None, ref, slope, found.shift + shift, found.ulps + layer.weight_ulps)
    return dataclasses.replace(found, origin=same(builder, found.ref))  # type: ignore[arg-type]


def rationals(values: Tensor) -> Rationals:
    """The numbers of a tensor, exactly."""
    found = np.empty(tuple(values.shape), dtype=object)
    found[...] = np.vectorize(Fraction, otypes=[object])(values.numpy()) if values.numel() else found
    return found


def bent(builder: Builder, limit: Rationals, value: Line, above: Line, below: Line) -> Ref | None:
    """What is `above` where a value is above a limit, and `below` elsewhere; None where it jumps there."""
    try:
        return _bent(builder, limit, value, above, below)
    except OverflowError:  # of a number that no float holds
        return None


def larger_line(builder: Builder, a: Ref, b: Ref) -> Ref | None:
    """The larger one of two lines of one value; None where they are none, or do not cross."""
    one, other = line_of(builder, a), line_of(builder, b)
    if one is None or other is None or one.origin != other.origin or a.shape != b.shape:
        return None
    slope = one.slope - other.slope
    if not bool(np.all(slope != 0)):
        return None
    difference = dataclasses.replace(one, slope=slope, shift=one.shift - other.shift, ulps=one.ulps + other.ulps)
    return bent(builder, np.array(Fraction(0), dtype=object), difference, one, other)


def _bent(builder: Builder, limit: Rationals, value: Line, above: Line, below: Line) -> Ref | None:
    """A function of one kink per entry; None where it jumps there.

    Raises:
        OverflowError: a number is larger, or smaller, than floats can be.
    """
    if not bool(np.all(value.slope != 0)) or value.ref is None:
        return None
    kink = (limit - value.shift) / value.slope
    turned = value.slope < 0
    slopes = np.where(turned, below.slope, above.slope), np.where(turned, above.slope, below.slope)  # right, left
    jump = (above.slope - below.slope) * kink + above.shift - below.shift
    rounded = above.ulps + below.ulps + value.ulps
    plain = bool(np.all(kink == 0) and np.all(above.shift == 0) and np.all(below.shift == 0))
    if not bool(np.all(jump == 0)) or (rounded and not plain):
        return None
    right, left, place = (_uniform(part) for part in (*slopes, kink))
    height = _uniform(above.slope * kink + above.shift)
    x = _wide(builder, value.ref, right, left, place, height)
    if rounded:
        return _rounded(builder, x, right, left, rounded)
    if right.size == left.size == place.size == 1:
        neuron = _neuron(builder, x, place.item(), right.item(), left.item())
        return _combined(builder, x, place.item(), neuron, right.item(), left.item(), height)
    y = x if plain else shifted(builder, x, _floats(-place))
    found = _by_size(builder, y, right, left)
    return found if plain else shifted(builder, found, _floats(height))


def _rounded(builder: Builder, x: Ref, right: Rationals, left: Rationals, rounded: int) -> Ref | None:
    """A kink at zero between lines of which the right one is x, and the other is one up to roundings."""
    if right.size > 1 or left.size > 1 or right.item() != 1:
        return None
    slope = float(left.item())
    layer = layers.leaky_relu(slope)
    off = 2.0**-52 * (rounded + 1) * max(abs(slope), 1.0)
    alpha, beta = math.nextafter(layer.alpha - off, -math.inf), math.nextafter(layer.beta + off, math.inf)
    return builder.emit(dataclasses.replace(layer, alpha=alpha, beta=beta, within=None), x)


def _neuron(builder: Builder, x: Ref, kink: Fraction, right: Fraction, left: Fraction) -> Neuron:
    """The activation that makes all functions of x with this kink: the first one asked for, or the size."""
    key = same(builder, x, weights=False), kink
    if key not in builder.kinks:
        limit, sides = float(kink), {right, left}
        if sides == {0, 1}:
            builder.kinks[key] = Neuron(builder.emit(_limited(limit, smallest=left == 1), x), right, left, kink)
        else:
            y = shifted(builder, x, -limit) if kink else x
            plain = right == 1 and Fraction(float(left)) == left
            layer = layers.leaky_relu(float(left)) if plain else layers.absolute()
            slopes = (right, left) if plain else (Fraction(1), Fraction(-1))
            builder.kinks[key] = Neuron(builder.emit(layer, y), *slopes, Fraction(0))
    return builder.kinks[key]  # type: ignore[no-any-return]


def _combined(
    builder: Builder, x: Ref, kink: Fraction, neuron: Neuron, right: Fraction, left: Fraction, height: Rationals
) -> Ref:
    """Its part and that of x, and a shift, so that slopes and the value at the kink are what is asked for."""
    share = (right - left) / (neuron.right - neuron.left)
    rest = right - share * neuron.right
    found = neuron.ref if share == 1 else _multiple(builder, neuron.ref, share)
    if rest:
        found = builder.emit(layers.Add(), x if rest == 1 else _multiple(builder, x, rest), found)
    shift = height - rest * kink - share * neuron.height
    return found if bool(np.all(shift == 0)) else shifted(builder, found, _floats(shift))


def _multiple(builder: Builder, x: Ref, factor: Fraction) -> Ref:
    constant = _floats(np.array([factor], dtype=object))
    exact = Fraction(float(constant)) == factor
    return builder.emit(layers.Scale(constant, weight_ulps=0 if exact else 1), x)


def _by_size(builder: Builder, x: Ref, right: Rationals, left: Rationals) -> Ref:
    """(right + left) / 2 x + (right - left) / 2 |x|, each factor rounded once."""
    linear = builder.emit(layers.Scale(_floats((right + left) / 2), weight_ulps=1), x)
    if bool(np.all(right == left)):
        return linear
    size = builder.emit(layers.absolute(), x)
    return builder.emit(
        layers.Add(), linear, builder.emit(layers.Scale(_floats((right - left) / 2), weight_ulps=1), size)
    )


def _wide(builder: Builder, x: Ref, *like: Rationals) -> Ref:
    shape = np.broadcast_shapes(*(part.shape for part in like))
    return expanded(builder, x, met(builder, torch.zeros(shape), x.shape)[1])


def _uniform(values: Rationals) -> Rationals:
    """One number where all are the same."""
    values = np.asarray(values, dtype=object)
    first = values.flat[0]
    return np.array([first], dtype=object) if bool(np.all(values == first)) else values


def _floats(values: Rationals) -> Tensor:
    """Each of them with one relative rounding."""
    values = np.asarray(values, dtype=object)
    found = torch.tensor(values.astype(np.float64))
    if bool(((found.abs() < _LEAST) & torch.tensor((values != 0).astype(bool))).any()):
        raise OverflowError("a number too small for one relative rounding")
    return found


def beside_constant(builder: Builder, x: Ref, value: Any, *, smallest: bool) -> Ref:
    """max(x, constant), or min: an activation behind a shift, with the same slopes wherever the constant is.

    Where the other one of both is there, it is what the sum of both leaves: max(x, c) + min(x, c) = x + c.
    """
    limit, shape = met(builder, value, x.shape)
    x = expanded(builder, x, shape)
    if bool((limit == limit.flatten()[0]).all()):
        kink, sides = Fraction(float(limit.flatten()[0])), (Fraction(not smallest), Fraction(smallest))
        neuron = _neuron(builder, x, kink, *sides)
        return _combined(builder, x, kink, neuron, *sides, np.array(kink, dtype=object))
    key = (same(builder, x), limit.numpy().tobytes())
    other = builder.compared.get((key, not smallest))
    if other is not None:
        return shifted(builder, builder.emit(layers.Add(), x, scaled(builder, other, -1)), limit)
    bent = layers.clamp(-math.inf, 0.0) if smallest else layers.relu()
    found = shifted(builder, builder.emit(bent, shifted(builder, x, -limit)), limit)
    builder.compared[key, smallest] = found
    return found


def relu(builder: Builder, x: Ref) -> Ref:
    """max(x, 0), of the neuron of a multiple of x where there is one: max(-x, 0) = max(x, 0) - x."""
    value, factor = _multiplied(builder, x)
    right, left, zero = max(factor, Fraction(0)), min(factor, Fraction(0)), Fraction(0)
    key = same(builder, value, weights=False), zero
    if key not in builder.kinks:
        builder.kinks[key] = Neuron(builder.emit(layers.relu(), x), right, left, zero)
    return _combined(builder, value, zero, builder.kinks[key], right, left, np.array(zero, dtype=object))


def _multiplied(builder: Builder, x: Ref) -> tuple[Ref, Fraction]:
    """(y, c) for x = c y with a number c, as far as its last operation says so."""
    layer = builder.nodes[x.index].layer
    if not isinstance(layer, layers.Scale) or layer.scale.numel() > 1 or layer.bias is not None or layer.weight_ulps:
        return x, Fraction(1)
    factor = Fraction(float(layer.scale))
    return (Ref(builder.nodes[x.index].inputs[0], x.shape), factor) if factor else (x, Fraction(1))


def rectified(builder: Builder, x: Ref, limit: float) -> Ref:
    """What a value has above a limit, max(x - limit, 0)."""
    kink, one, zero = Fraction(limit), Fraction(1), Fraction(0)
    neuron = _neuron(builder, x, kink, one, zero)
    return _combined(builder, x, kink, neuron, one, zero, np.array(zero, dtype=object))


def _limited(limit: float, *, smallest: bool) -> layers.Activation:
    if smallest:
        return layers.clamp(-math.inf, limit)
    return layers.relu() if limit == 0 else layers.clamp(limit, math.inf)
