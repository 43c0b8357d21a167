"""Which values are the same, however often they were computed, and which entries of what they consist of."""

from __future__ import annotations

import math
from collections.abc import Hashable

import torch
from torch import Tensor

from lipguard.trusted import layers
from lipguard.trusted.network.digest import described, numbers_of
from lipguard.trusted.reading.builder import Builder, Ref

_MOST_NUMBERS = 2**14  # of a matrix that is looked at


def same(builder: Builder, ref: Ref, *, weights: bool = True) -> int:
    """A number that two values share where they are the same function of the same node, as far as is looked.

    Without `weights` no numbers that may be learned are looked at: those of two layers are the same now and then, as
    before the first step.
    """
    known = builder.numbers.setdefault(weights, {})
    if ref.index not in known:
        node = builder.nodes[ref.index]
        what = _what(node.layer) if weights or not isinstance(node.layer, (layers.Scale, layers.Linear)) else None
        inputs = (same(builder, Ref(j, builder.nodes[j].shape), weights=weights) for j in node.inputs)
        key = ref.index if what is None else (type(node.layer).__name__, what, *inputs)
        known[ref.index] = builder.values.setdefault((weights, key), len(builder.values))
    return known[ref.index]


def _what(layer: layers.Layer) -> Hashable:
    """What a layer does, where that is soon told; None elsewhere."""
    match layer:
        case layers.Pick(index):
            return _entries(index)
        case layers.Pad(padding):
            return padding
        case layers.Reshape(shape):
            return shape
        case layers.Scale(scale, bias, ulps):
            return *(_entries(part) for part in (scale, bias) if part is not None), ulps
        case layers.Linear(weight, None, ulps) if weight.numel() <= _MOST_NUMBERS:
            return _entries(weight), ulps
        case layers.Add():
            return "+"
        case layers.Activation(name, note="", group=1):  # of the library, whose functions have names
            return name, repr(described(layer.function, weights=True))
    return None


def _entries(values: Tensor) -> Hashable:
    return tuple(values.shape), numbers_of(values).tobytes()


def entries_of(builder: Builder, ref: Ref) -> tuple[Ref, Tensor]:
    """(the node whose entries a value has, where in it each of them is, of the value's shape; -1 for zeros)."""
    index = torch.arange(math.prod(ref.shape)).reshape(ref.shape)
    while isinstance(layer := builder.nodes[ref.index].layer, (layers.Pick, layers.Pad, layers.Reshape)):
        (below,) = builder.nodes[ref.index].inputs
        ref = Ref(below, builder.nodes[below].shape)
        numbers = torch.arange(1, math.prod(ref.shape) + 1, dtype=torch.float64).reshape(1, *ref.shape)
        source = layer.linear(numbers).flatten().long() - 1
        index = torch.where(index < 0, -1, source[index])
    return ref, index
