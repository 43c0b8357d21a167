"""The product bound: norms multiplied along the graph."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lipguard.trusted.layers import (
    picks,
)
from lipguard.trusted.network.cutting import compared_at
from lipguard.trusted.network.exchanging import exchanged_at
from lipguard.trusted.network.graph import Network
from lipguard.trusted.rounding import add_up, mul_up, sqrt_up

_known_windows: weakref.WeakKeyDictionary[Network, dict[int, dict[int, float]]] = weakref.WeakKeyDictionary()


def product_bounds(network: Network, norms: Sequence[float]) -> list[float]:
    """For every node, a certified Lipschitz constant of the map from the network's input to it.

    Norms are multiplied along the graph, and added where branches meet (triangle inequality). What is the larger of two
    values, entry by entry, is no longer than both together; what has pairs of its entries in order is no longer than it
    was.

    Args:
        network: the network.
        norms: its `node_norms`.
    """
    bounds: list[float] = []
    for i, norm in enumerate(norms):
        bounds.append(node_bound(network, i, norm, bounds) if network.nodes[i].inputs else 1.0)
    return bounds


def node_bound(network: Network, i: int, norm: float, bounds: Sequence[float]) -> float:
    """The same for node i, whose layer has this norm, given those of the nodes before it."""
    bound = mul_up(norm, add_up(*(bounds[j] for j in network.nodes[i].inputs)))
    if compared_at(network, i) is not None:
        squares = [mul_up(most, bounds[j], bounds[j]) for j, most in _windows(network, i).items()]
        bound = min(bound, sqrt_up(add_up(*squares)))
    elif (exchange := exchanged_at(network, i)) is not None:
        bound = min(bound, bounds[exchange.source])
    return bound


def _windows(network: Network, i: int) -> dict[int, float]:
    """`_counted`, once for a network: norms change, windows do not."""
    known = _known_windows.setdefault(network, {})
    if i not in known:
        known[i] = _counted(network, i)
    return known[i]


def _counted(network: Network, i: int) -> dict[int, float]:
    """Nodes of whose entries node i holds the largest, and in how many of its entries one of them takes part, at most.

    What takes part twice in one window counts once: no difference is larger than the largest of the differences.
    """
    found: dict[int, list[NDArray[np.int64]]] = {}  # for every entry of node i what takes part, from 1; 0 for a zero
    waiting = [i]
    while waiting:
        j = waiting.pop()
        compared = compared_at(network, j)
        if compared is not None:
            waiting.extend(compared)
            continue
        layer, inputs = network.nodes[j].layer, network.nodes[j].inputs
        source = inputs[0] if picks(layer) else j
        numbers = torch.arange(1, network.nodes[source].size + 1, dtype=torch.float64)
        numbers = numbers.reshape(1, *network.nodes[source].shape)
        read = layer.linear(numbers) if source != j else numbers
        found.setdefault(source, []).append(read.flatten().numpy().astype(np.int64))
    most = {}
    for source, columns in found.items():
        size = network.nodes[source].size + 1
        pairs = np.unique(np.concatenate([column + size * np.arange(len(column)) for column in columns]))
        counts = np.bincount(pairs % size, minlength=2)
        most[source] = float(counts[1:].max())
    return most
