"""Values divided by the lengths of the groups that they are of: x / sqrt(eps + |x|^2), however it is written."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lipguard.trusted import layers
from lipguard.trusted.layers import groups
from lipguard.trusted.reading.builder import Builder, Ref
from lipguard.trusted.reading.chains import ULPS, Line, computes, line_of, number, source_of
from lipguard.trusted.reading.values import entries_of, same


def over_length(builder: Builder, x: Ref, y: Ref) -> Ref | None:
    """x y, where y is 1 / (f sqrt(eps + |g|^2)) with the group g that each entry of x is one of; None elsewhere.

    With n entries it is x / s, s = sqrt(|g|^2 / n + eps / n), over f sqrt(n): `groups.root_mean_square`.
    """
    if len(x.shape) != len(y.shape) or np.broadcast_shapes(x.shape, y.shape) != x.shape:
        return None
    found = _divisor(builder, y)
    if found is None:
        return None
    line, of_group, eps = found
    group = source_of(builder, line.x)  # shape (.., n)
    place = _places(builder, x, group, of_group.expand(x.shape))
    if place is None:
        return _times_factors(builder, x, y)
    n = group.shape[-1]
    layer, divisor = groups.root_mean_square(n, eps / n)
    factor = number(1 / (divisor * line.factor * math.sqrt(n)), line.ulps + ULPS)
    return builder.emit(layers.Pick(place), builder.emit(factor, builder.emit(layer, group)))


def _times_factors(builder: Builder, x: Ref, y: Ref) -> Ref | None:
    """(c u) y = c (u y)."""
    layer = builder.nodes[x.index].layer
    if not isinstance(layer, layers.Scale) or layer.bias is not None:
        return None
    source = source_of(builder, x)
    found = over_length(builder, source, y) if source.shape == x.shape else None
    return None if found is None else builder.emit(layer, found)


def _divisor(builder: Builder, y: Ref) -> tuple[Line, Tensor, float] | None:
    """What y is one over: (a line of the lengths of groups, the group that each entry of y is of, eps)."""
    inverse, entry = entries_of(builder, y)
    if bool((entry < 0).any()) or not computes(builder, inverse, torch.reciprocal):
        return None
    lengths, among = entries_of(builder, source_of(builder, inverse))
    line = line_of(builder, lengths)
    first, place = entries_of(builder, line.x)
    layer = builder.nodes[first.index].layer
    eps = groups.eps_of_length(layer) if isinstance(layer, layers.Activation) else None
    if not eps or line.shift or not line.factor > 0:
        return None
    place = place.flatten()[among.flatten()[entry]]
    n = first.shape[-1]
    if (
        bool((among < 0).any()) or bool((place < 0).any()) or bool((place % n != 0).any())
    ):  # the lengths are the first entries
        return None
    return line._replace(x=first), place // n, eps


def _places(builder: Builder, x: Ref, group: Ref, of_group: Tensor) -> Tensor | None:
    """Where the entries of x are among those of their groups; None where they are not."""
    (one, mine), (other, theirs) = entries_of(builder, x), entries_of(builder, group)
    if one.shape != other.shape or same(builder, one) != same(builder, other):
        return None
    where = torch.full((math.prod(one.shape),), -1)
    known = theirs.flatten() >= 0
    where[theirs.flatten()[known]] = torch.arange(theirs.numel())[known]
    found = torch.where(mine < 0, -1, where[mine])
    inside = bool((found >= 0).all()) and bool((found // group.shape[-1] == of_group).all())
    return found.contiguous() if inside else None
