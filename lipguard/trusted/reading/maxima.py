"""Maxima and minima, of branches and along axes, as comparisons: max(a, b) = a + relu(b - a).

For slopes in [0, 1] a comparison says that the larger entry is between both, so that it is no longer than they are
together, the group constraint; and it keeps what that forgets. Of the two results of one comparison the second is what
the sum of both leaves: max(a, b) + min(a, b) = a + b. So one neuron makes both, and with it a MaxMin layer keeps sums
exactly and lengths by its slopes, 2 max - (a + b) = |a - b|: the constraints of LipSDP-NSR (Pauli et al., ICLR 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.reading.builder import Builder, Kind, Pending, Ref
from lipguard.trusted.reading.constants import alike, scaled
from lipguard.trusted.reading.lines import beside_constant, larger_line
from lipguard.trusted.reading.moving import moved, reshaped
from lipguard.trusted.reading.values import entries_of, same

_SINGLES = 64  # entries of an axis that are compared one by one


class Places(Pending):
    """Where the largest entries are."""

    why = ("the places of entries", "They jump, and have no Lipschitz constant. Use the values.")


def compared(builder: Builder, a: Ref, b: Ref) -> Ref:
    """The larger one of two values, entry by entry."""
    excess = builder.emit(layers.relu(), builder.emit(layers.Add(), b, scaled(builder, a, -1)))
    return builder.emit(layers.Add(), a, excess)


def larger(builder: Builder, a: Any, b: Any) -> Ref:
    """max(a, b); one of them may be a constant."""
    return _of_two(builder, a, b, smallest=False)


def smaller(builder: Builder, a: Any, b: Any) -> Ref:
    """min(a, b); one of them may be a constant."""
    return _of_two(builder, a, b, smallest=True)


def _of_two(builder: Builder, a: Any, b: Any, *, smallest: bool) -> Ref:
    if not isinstance(a, Ref):
        a, b = b, a
    if not isinstance(b, Ref):
        return beside_constant(builder, a, b, smallest=smallest)
    pair = alike(builder, a, b)
    keys = frozenset(same(builder, value) for value in pair)
    if len(keys) == 1:
        return pair[0]
    a, b = pair
    signs = -1 if smallest else 1
    line = larger_line(builder, scaled(builder, a, signs), scaled(builder, b, signs))
    if line is not None:
        return scaled(builder, line, signs)
    ordered = _in_order(builder, a, b, keys)
    if ordered is not None:
        return ordered[not smallest]
    other = builder.compared.get((keys, not smallest))
    if other is not None:
        return builder.emit(layers.Add(), a, b, scaled(builder, other, -1))
    if smallest:
        found = scaled(builder, compared(builder, scaled(builder, a, -1), scaled(builder, b, -1)), -1)
    else:
        found = compared(builder, a, b)
    builder.compared[keys, smallest] = found
    return found


def _in_order(builder: Builder, a: Ref, b: Ref, keys: Hashable) -> tuple[Ref, Ref] | None:
    """(smaller, larger) of two values that are entries of one node, none of them in both: it keeps all the others."""
    (x, first), (y, second) = entries_of(builder, a), entries_of(builder, b)
    both = torch.cat([first.flatten(), second.flatten()])
    if x.index != y.index or bool((both < 0).any()) or int(torch.bincount(both).max()) > 1:
        return None
    if keys not in builder.exchanges:
        builder.exchanges[keys] = exchanged(builder, x, first, second), first, second
    order, least, most = builder.exchanges[keys]
    return builder.emit(layers.Pick(least), order), builder.emit(layers.Pick(most), order)


def exchanged(builder: Builder, x: Ref, first: Tensor, second: Tensor) -> Ref:
    """A value with some of its entries in order, the smaller one of every pair in its first place.

    Args:
        builder: of the network.
        x: the value.
        first: places in the flat value, of any shape; each of them is there once.
        second: places of the same shape.
    """
    a, b = (builder.emit(layers.Pick(places), x) for places in (first, second))
    excess = builder.emit(layers.relu(), builder.emit(layers.Add(), a, scaled(builder, b, -1)))
    source = torch.full((math.prod(x.shape),), -1)
    sign = torch.zeros(math.prod(x.shape), dtype=torch.float64)
    source[first.flatten()] = source[second.flatten()] = torch.arange(first.numel())
    sign[first.flatten()], sign[second.flatten()] = -1.0, 1.0
    placed = builder.emit(layers.Pick(source.reshape(x.shape)), excess)
    return builder.emit(layers.Add(), x, builder.emit(layers.Scale(sign.reshape(x.shape)), placed))


def largest_along(builder: Builder, x: Ref, axis: int) -> Ref:
    """The largest entry of an axis, counted without that of the batch, which it keeps.

    By halves as long as there are two; then the entries themselves in pairs, so that none is in two of them.
    """

    def part(start: int, length: int) -> Ref:
        return moved(builder, x, lambda v: v.narrow(axis + 1, start, length))

    beside = []
    while (n := x.shape[axis]) > 2 and (n % 2 == 0 or n > _SINGLES):
        if n % 2:
            beside.append(part(n - 1, 1))
        x = compared(builder, part(0, n // 2), part(n // 2, n // 2))
    if x.shape[axis] == 2 and not beside:  # which shares its comparison with the smallest one
        return larger(builder, part(0, 1), part(1, 1))
    entries = [*(part(k, 1) for k in range(x.shape[axis])), *beside]
    while len(entries) > 1:
        pairs = [compared(builder, a, b) for a, b in zip(entries[::2], entries[1::2], strict=False)]
        entries = pairs + entries[2 * len(pairs) :]
    return entries[0]


def smallest_along(builder: Builder, x: Ref, axis: int) -> Ref:
    """The smallest one."""
    if x.shape[axis] == 2:  # which shares its comparison with the largest one
        first, last = (
            moved(builder, x, lambda v, k=k: v.narrow(axis + 1, k, 1))  # type: ignore[misc]
            for k in (0, 1)
        )
        return smaller(builder, first, last)
    return scaled(builder, largest_along(builder, scaled(builder, x, -1), axis), -1)


def _largest_over(builder: Builder, x: Ref, dim: int | Sequence[int] | None, keepdim: bool, *, smallest: bool) -> Ref:
    """Over one axis or several of a sample."""
    axes = len(x.shape) + 1
    over = sorted({d % axes for d in ((dim,) if isinstance(dim, int) else tuple(dim or ()))})
    if not over or 0 in over:
        raise InvalidNetworkError(f"{builder.path}: it compares along the batch axis. Name the axes of a sample.")
    for axis in over:
        x = (smallest_along if smallest else largest_along)(builder, x, axis - 1)
    shape = [n for d, n in enumerate(x.shape, start=1) if keepdim or d not in over]
    return reshaped(builder, x, lambda v: v.reshape(len(v), *shape))


def _extreme(*, smallest: bool) -> Callable[..., Any]:
    """The rule of torch.max, or min: of two values, or of an axis with the places."""

    def rule(builder: Builder, x: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
        second = dim if other is None else other
        if isinstance(second, (Ref, Tensor)):
            return _of_two(builder, x, second, smallest=smallest)
        return [_largest_over(builder, x, second, keepdim, smallest=smallest), Places()]

    return rule


def _extreme_of_axes(*, smallest: bool) -> Callable[..., Any]:
    def rule(builder: Builder, x: Ref, dim: Any = None, keepdim: bool = False) -> Ref:
        return _largest_over(builder, x, dim, keepdim, smallest=smallest)

    return rule


KINDS: tuple[Kind, ...] = (
    Kind(larger, functions=(torch.maximum, torch.fmax, "maximum", "fmax")),
    Kind(smaller, functions=(torch.minimum, torch.fmin, "minimum", "fmin")),
    Kind(_extreme(smallest=False), functions=(torch.max, "max")),
    Kind(_extreme(smallest=True), functions=(torch.min, "min")),
    Kind(_extreme_of_axes(smallest=False), functions=(torch.amax, "amax")),
    Kind(_extreme_of_axes(smallest=True), functions=(torch.amin, "amin")),
)
