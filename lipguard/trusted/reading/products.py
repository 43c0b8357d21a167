"""Products of two values that depend on the input."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.reading.builder import Builder, Kind, Ref
from lipguard.trusted.reading.constants import alike
from lipguard.trusted.reading.fusing import fused
from lipguard.trusted.reading.moving import moved
from lipguard.trusted.reading.quotients import over_length


def multiplied(builder: Builder, x: Ref, y: Ref) -> Ref:
    """x y, entry by entry: one function of one value where it is known as one, and else a product."""
    found = fused(builder, x, y) if x.shape == y.shape else None
    found = found or over_length(builder, x, y) or over_length(builder, y, x)
    return found or builder.emit(layers.Product(), *alike(builder, x, y))


def _gated(builder: Builder, x: Ref, dim: int = -1) -> Ref:
    """a sigmoid(b) for the two halves of an axis."""
    axes = len(x.shape) + 1
    axis = dim % axes
    if axis == 0:
        raise InvalidNetworkError(f"{builder.path}: it cuts the batch axis in two. Name an axis of a sample.")
    one, other = (moved(builder, x, lambda v, k=k: v.chunk(2, axis)[k]) for k in (0, 1))  # type: ignore[misc]
    return multiplied(builder, one, builder.emit(layers.sigmoid(), other))


KINDS: tuple[Kind, ...] = (Kind(_gated, nn.GLU, lambda m: {"dim": m.dim}, (F.glu,)),)
