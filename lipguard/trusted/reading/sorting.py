"""Sorting, as a network of comparisons.

Every comparison keeps the sum of its pair, and is no longer than it; both follow from the slope of one neuron
(`maxima`). So the whole network keeps sums and is no longer, and each of its neurons has a multiplier of its own: it
says more than that a sorted group is no longer than it was.

That is all that is said where there are thousands of comparisons: with n log(n)^2 / 4 of them for n entries a proof
takes longer than it is tighter, and would not be had in time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lipguard.trusted import layers
from lipguard.trusted.reading.arithmetic import axis_of
from lipguard.trusted.reading.builder import Builder, Kind, Ref
from lipguard.trusted.reading.maxima import Places, exchanged
from lipguard.trusted.reading.moving import moved, reshaped

_MOST_COMPARISONS = 2048  # of a sample


def stages(n: int) -> Iterator[list[tuple[int, int]]]:
    """Pairs (i, j), i < j, of n entries to put in order, those of a stage at once: Batcher's merge exchange.

    Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M; for any n.
    """
    top = 1 << max((n - 1).bit_length() - 1, 0)
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            pairs = [(i, i + d) for i in range(n - d) if i & p == r]
            if pairs:
                yield pairs
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2


def sorted_along(builder: Builder, x: Ref, axis: int, *, descending: bool) -> Ref:
    """The entries of an axis of a sample, counted without that of the batch, in order."""
    last = moved(builder, x, lambda v: v.movedim(axis + 1, -1))
    n = last.shape[-1]
    comparisons = sum(map(len, stages(n))) * (math.prod(last.shape) // n)
    if n > 2 and comparisons > _MOST_COMPARISONS:
        whole = layers.Activation("sort", -1.0, 1.0, partial(_sorted, descending=descending), n)
        return moved(builder, builder.emit(whole, last), lambda v: v.movedim(-1, axis + 1))
    entries = torch.arange(math.prod(last.shape)).reshape(last.shape)
    for pairs in stages(n):
        first, second = (entries[..., list(places)] for places in zip(*pairs, strict=True))
        last = exchanged(builder, last, *((second, first) if descending else (first, second)))
    return moved(builder, last, lambda v: v.movedim(-1, axis + 1))


def _sorted(x: Tensor, descending: bool) -> Tensor:
    return x.sort(-1, descending=descending).values


def _sort(builder: Builder, x: Ref, dim: int = -1, descending: bool = False, *, stable: bool = False) -> list[Any]:
    return [sorted_along(builder, x, axis_of(builder, x, dim), descending=descending), Places()]


def _topk(builder: Builder, x: Ref, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> list[Any]:
    axis = axis_of(builder, x, dim)
    found = sorted_along(builder, x, axis, descending=largest)
    return [moved(builder, found, lambda v: v.narrow(axis + 1, 0, k)), Places()]


def _kth(builder: Builder, x: Ref, k: int, dim: int = -1, keepdim: bool = False) -> list[Any]:
    axis = axis_of(builder, x, dim)
    found = moved(builder, sorted_along(builder, x, axis, descending=False), lambda v: v.narrow(axis + 1, k - 1, 1))
    return [found if keepdim else reshaped(builder, found, lambda v: v.squeeze(axis + 1)), Places()]


def _median(builder: Builder, x: Ref, dim: int, keepdim: bool = False) -> list[Any]:
    """The lower one of both where there are two."""
    return _kth(builder, x, (x.shape[axis_of(builder, x, dim)] + 1) // 2, dim, keepdim)


KINDS: tuple[Kind, ...] = (
    Kind(_sort, functions=(torch.sort, "sort")),
    Kind(_topk, functions=(torch.topk, "topk")),
    Kind(_kth, functions=(torch.kthvalue, "kthvalue")),
    Kind(_median, functions=(torch.median, "median")),
)
