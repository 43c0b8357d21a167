"""Values side by side, and on top of each other."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.reading.builder import Builder, Kind, Ref, Turned
from lipguard.trusted.reading.constants import one_sample, read, shifted
from lipguard.trusted.reading.moving import moved, reshaped
from lipguard.trusted.reading.values import entries_of


def _cat(builder: Builder, tensors: Sequence[Any], dim: int = 0, axis: int | None = None) -> Ref:
    """Each in its place, between zeros, and their sum; constants are a shift."""
    dim = dim if axis is None else axis
    axes = 1 + len(next(x.shape for x in tensors if isinstance(x, Ref)))
    dim = dim + axes if dim < 0 else dim
    if dim == 0:
        raise InvalidNetworkError(f"{builder.path}: it concatenates along the batch axis.")
    if len(tensors) == 1:
        return tensors[0]  # type: ignore[no-any-return]
    together = _of_one_exchange(builder, tensors, dim)
    if together is not None:
        return together
    parts = [x if isinstance(x, Ref) else one_sample(builder, read(builder, x)) for x in tensors]
    lengths = [x.shape[dim - 1] for x in parts]
    placed, shift = [], torch.zeros(())
    for k, x in enumerate(parts):
        before, after = sum(lengths[:k]), sum(lengths[k + 1 :])
        pad = layers.Pad((*(0 for _ in range(2 * (axes - 1 - dim))), before, after))
        if isinstance(x, Ref):
            placed.append(builder.emit(pad, x))
        else:
            shift = shift + pad.linear(x[None])[0]
    total = builder.emit(layers.Add(), *placed) if len(placed) > 1 else placed[0]
    return total if len(placed) == len(parts) else shifted(builder, total, shift)


def _set(x: Tensor, key: Any, value: Any) -> Tensor:
    found = x.clone()
    found[key] = value
    return found


def _assigned(builder: Builder, x: Any, key: Any, value: Any) -> Ref:
    """x after x[key] = value: what stays of one, and what the other puts in its place."""
    shape = (builder.batch, *x.shape) if isinstance(x, Ref) else tuple(x.shape)

    def stays(v: Tensor) -> Tensor:
        return _set(v, key, 0)

    def comes(v: Tensor) -> Tensor:
        return _set(torch.zeros(shape, dtype=v.dtype), key, v)

    parts, shift = [], torch.zeros(())
    for part, place in ((x, stays), (value, comes)):
        if isinstance(part, Ref):
            parts.append(moved(builder, part, place))
        else:
            shift = shift + one_sample(builder, place(read(builder, part)))
    total = builder.emit(layers.Add(), *parts) if len(parts) > 1 else parts[0]
    return shifted(builder, total, shift) if len(parts) < 2 else total


def _of_one_exchange(builder: Builder, tensors: Sequence[Any], dim: int) -> Ref | None:
    """Of parts of a node that puts entries in order, as the layers that it stands for put together what they compare.

    They are entries of it, each in its place: that is no longer than it is, where a sum of parts may be.
    """
    if not all(isinstance(x, Ref) for x in tensors):
        return None
    found = [entries_of(builder, x) for x in tensors]
    sources = {source.index for source, _ in found}
    if len(sources) > 1 or not sources <= {order.index for order, *_ in builder.exchanges.values()}:
        return None
    return builder.emit(layers.Pick(torch.cat([index for _, index in found], dim - 1)), found[0][0])


def _stack(builder: Builder, tensors: Sequence[Any], dim: int = 0) -> Ref | Turned:
    if dim == 0 or dim == -2 - max(len(x.shape) for x in tensors if isinstance(x, Ref)):
        return Turned(_beside(builder, tensors, 1), 1)
    return _beside(builder, tensors, dim)


def _beside(builder: Builder, tensors: Sequence[Any], dim: int) -> Ref:
    apart = [
        reshaped(builder, x, lambda v: v.unsqueeze(dim)) if isinstance(x, Ref) else torch.as_tensor(x).unsqueeze(dim)
        for x in tensors
    ]
    return _cat(builder, apart, dim)


KINDS: tuple[Kind, ...] = (
    Kind(_cat, functions=(torch.cat, torch.concat, torch.concatenate)),
    Kind(_assigned, functions=(operator.setitem,)),
    Kind(_stack, functions=(torch.stack,)),
    Kind(lambda builder, tensors: _cat(builder, tensors, 1), functions=(torch.hstack,)),
)
