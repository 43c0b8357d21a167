"""Where the entries of a tile's network lie in the whole network, by plain index arithmetic."""

from __future__ import annotations

from collections.abc import Collection
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lipguard.trusted.layers import Conv2d
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.tiling import TileShape, Tiling

Array = NDArray[np.float64]
Entries = list[tuple[int, int]]  # (flat entry of the tile's network, flat entry of the whole network)


def stride_to_output(network: Network, node: int, axis: int) -> int:
    """Product of the strides between a node and the output, along one path."""
    stride = 1
    while network.consumers[node]:
        node = network.consumers[node][0]
        layer = network.nodes[node].layer
        stride *= layer.stride[axis] if isinstance(layer, Conv2d) else 1
    return stride


def entries(network: Network, shape: TileShape, origin: tuple[int, int], node: int) -> Entries:
    """The entries of one node that a member has: those of the shape's box that lie on the grid."""
    channels, rows, columns = network.nodes[node].shape
    (top, bottom), (left, right) = shape.boxes[node]
    down, along = (origin[axis] * stride_to_output(network, node, axis) for axis in (0, 1))
    return [
        (
            (c * (bottom - top) + r - top) * (right - left) + k - left,
            (c * rows + r + down) * columns + k + along,
        )
        for c, r, k in product(range(channels), range(top, bottom), range(left, right))
        if 0 <= r + down < rows and 0 <= k + along < columns
    ]


def variables(network: Network, shape: TileShape, origin: tuple[int, int]) -> Entries:
    """The same for z = (input, activations in order): positions in the tile's z and in the whole network's z."""
    found: Entries = []
    local = absolute = 0
    for node in (0, *network.activations):
        found += [(a + local, b + absolute) for a, b in entries(network, shape, origin, node)]
        (top, bottom), (left, right) = shape.boxes[node]
        local += network.nodes[node].shape[0] * (bottom - top) * (right - left)
        absolute += network.nodes[node].size
    return found


def needed(freed: FreedNetwork, outputs: list[int], among: Collection[int] | None = None) -> set[int]:
    """Variables that some outputs depend on, directly or through other activations; `among` are not zero."""
    among = range(freed.K.shape[1]) if among is None else among
    rows = [freed.Y[outputs]]
    found: set[int] = set()
    while rows:
        new = {int(i) for i in np.flatnonzero(np.abs(rows.pop()).sum(axis=0)) if i in among} - found
        found |= new
        neurons = [i - freed.n_x for i in new if i >= freed.n_x]
        if neurons:
            rows.append(freed.K[neurons])
    return found


def members(tiling: Tiling) -> list[tuple[TileShape, tuple[int, int]]]:
    """Every tile."""
    return [(shape, origin) for shape in tiling.shapes for origin in shape.origins]
