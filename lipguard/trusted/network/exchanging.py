"""Pairs of entries that a node puts in order: the stages of a sorting network."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from lipguard.trusted.layers import Add, Pick, Scale
from lipguard.trusted.network.cutting import excess_at
from lipguard.trusted.network.graph import Network


@dataclass(frozen=True, eq=False)
class Exchange:
    """The smaller entry of every pair in its first place, and the larger one in its second."""

    source: int  # the node whose entries they are
    excess: int  # the node that is by how much the first one is larger
    first: NDArray[np.int64]  # places in the flat value
    second: NDArray[np.int64]


_known: WeakKeyDictionary[Network, dict[int, Exchange | None]] = WeakKeyDictionary()  # as long as it is in use


def exchanged_at(network: Network, i: int) -> Exchange | None:
    """`_exchanged_at`, found once for a network."""
    found = _known.setdefault(network, {})
    if i not in found:
        found[i] = _exchanged_at(network, i)
    return found[i]


def _exchanged_at(network: Network, i: int) -> Exchange | None:
    """What node i exchanges: it is x + P m with m = f(a - b), where P takes m from a's places and adds it in b's.

    Of differences that is no longer than x for every f with slopes s in [0, 1]: a pair keeps its sum, and of its
    length (a - s d)^2 + (b + s d)^2 = a^2 + b^2 - 2 s (1 - s) d^2, with d = a - b. With a ReLU the pair is in order.
    """
    nodes = network.nodes
    if not (isinstance(nodes[i].layer, Add) and len(nodes[i].inputs) == 2):
        return None
    x, moved = nodes[i].inputs
    sign = nodes[moved].layer
    if not (isinstance(sign, Scale) and not sign.weight_ulps and sign.bias is None):
        return None
    (placed,) = nodes[moved].inputs
    places = nodes[placed].layer
    if not isinstance(places, Pick):
        return None
    (excess,) = nodes[placed].inputs
    pairs = _difference(network, excess, x)
    if pairs is None:
        return None
    first, second = pairs
    count = len(first)
    signs = np.broadcast_to(sign.scale.numpy(), nodes[i].shape).ravel()
    source = np.where(signs == 0, -1, places.index.numpy().ravel())
    expected, direction = np.full(nodes[x].size, -1), np.zeros(nodes[x].size)
    expected[first] = expected[second] = np.arange(count)
    direction[first], direction[second] = -1.0, 1.0
    right = np.array_equal(source, expected) and np.array_equal(np.where(source < 0, 0.0, signs), direction)
    return Exchange(x, excess, first, second) if right else None


def _difference(network: Network, excess: int, x: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """(a, b) where a node is f(a - b) of entries of node x, no two of which are the same."""
    nodes = network.nodes
    difference = excess_at(network, excess)
    if difference is None:
        return None
    a, less = difference
    turned = nodes[less].layer
    if not (isinstance(turned, Scale) and turned.bias is None):
        return None
    (b,) = nodes[less].inputs
    one, other = nodes[a].layer, nodes[b].layer
    if not (isinstance(one, Pick) and isinstance(other, Pick) and nodes[a].inputs == nodes[b].inputs == (x,)):
        return None
    first, second = one.index.numpy().ravel(), other.index.numpy().ravel()
    all_ = np.concatenate([first, second])
    return (first, second) if all_.min() >= 0 and len(np.unique(all_)) == len(all_) else None
