"""Products of two values that depend on the input."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import nn

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.layers import Shape
from lipguard.trusted.reading.builder import Builder, Kind, Ref
from lipguard.trusted.reading.fusing import fused
from lipguard.trusted.reading.moving import moved


def multiplied(builder: Builder, x: Ref, y: Ref) -> Ref:
    """x y, entry by entry: one function of one value where it is known as one, and else a product."""
    try:
        shape = tuple(np.broadcast_shapes(x.shape, y.shape))
    except ValueError:
        shape = ()
    if not shape or max(len(x.shape), len(y.shape)) > min(len(x.shape), len(y.shape)):
        raise builder.unsupported(f"the product of shapes {x.shape} and {y.shape}", "Give both the same axes.")
    found = fused(builder, x, y) if x.shape == y.shape else None
    return found or builder.emit(layers.Product(), expanded(builder, x, shape), expanded(builder, y, shape))


def expanded(builder: Builder, x: Ref, shape: Shape) -> Ref:
    """Entries repeated along axes that have one."""
    return moved(builder, x, lambda v: v.expand(len(v), *shape))


def _gated(builder: Builder, x: Ref, dim: int = -1) -> Ref:
    """a sigmoid(b) for the two halves of an axis."""
    axes = len(x.shape) + 1
    axis = dim % axes
    if axis == 0:
        raise InvalidNetworkError(f"{builder.path}: it cuts the batch axis in two. Name an axis of a sample.")
    one, other = (moved(builder, x, lambda v, k=k: v.chunk(2, axis)[k]) for k in (0, 1))  # type: ignore[misc]
    return multiplied(builder, one, builder.emit(layers.sigmoid(), other))


KINDS: tuple[Kind, ...] = (Kind(_gated, nn.GLU, lambda m: {"dim": m.dim}, (F.glu,)),)
