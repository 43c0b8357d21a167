"""Tiles of a convolutional subnetwork's output grid, through receptive fields.

A tile is a box of output positions. What it depends on is a box at every node (its receptive field there), clipped to
the node's grid. Tiles of one size read the same weights at the same relative positions, so one *shape* stands for all:
at every node the smallest box, in positions relative to the tile, that covers the clipped boxes of all its members.
A member is the shape's network with some variables of the LMI removed: inputs and activations at positions outside the
grid, whose values are zero. Its LMI is a principal submatrix of the shape's, and a certificate of the shape holds for
every member, under two conditions that are easy to miss:

- What is not a variable cannot be removed. An affine layer's output outside the grid is zero in the network but
  computed in the shape's, so nothing on the grid may read it where it reads anything on the grid itself.
- The constraint of a removed activation leaves `2 t alpha beta a^2` behind. That must not help, so slopes that do not
  reach zero are widened to where they do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lipguard.trusted.layers import Activation, Interval, Layer, Scale, is_constant
from lipguard.trusted.network.boxes import AXES, fitted, reads, receptive_fields, strides, union
from lipguard.trusted.network.graph import Network, Node, reaches_without_activation


def is_tileable(network: Network) -> bool:
    """Whether the output grid can be cut into tiles that read boxes of the input, all with the same weights."""
    if len(network.nodes) < 2 or any(len(node.shape) != 3 for node in network.nodes):
        return False
    if not all(_keeps_translations(node.layer) for node in network.nodes):
        return False
    return all(strides(network, axis) is not None and _pads_zeros(network, axis) for axis in AXES)


def _pads_zeros(network: Network, axis: int) -> bool:
    """Whether all that is read beyond the edge of a grid is zero in the network of a tile that reaches beyond it, too.

    There, the input and the activations beyond the edge are variables that are removed. What an affine layer makes
    beyond the edge of its own grid is zero only if it reads nothing else; a convolution of a convolution does.
    """
    vanishes: list[bool] = []  # beyond the edge
    for node in network.nodes:
        sizes = [(j, network.nodes[j].shape[1 + axis]) for j in node.inputs]
        length = node.shape[1 + axis]
        low, high = reads(node.layer, (0, length), axis)
        if any((low < 0 or high > size) and not vanishes[j] for j, size in sizes):
            return False
        before, behind = reads(node.layer, (-1, 0), axis)[1], reads(node.layer, (length, length + 1), axis)[0]
        outside = all(before <= 0 and behind >= size and vanishes[j] for j, size in sizes)
        vanishes.append(isinstance(node.layer, Activation) or outside)
    return True


def _reaching_zero(layer: Activation) -> Activation:
    """The activation, known to have slopes in an interval that contains zero only."""
    return dataclasses.replace(layer, alpha=min(layer.alpha, 0.0), beta=max(layer.beta, 0.0))


def _keeps_translations(layer: Layer) -> bool:
    return layer.windows() is not None and not (isinstance(layer, Scale) and not is_constant(layer.scale))


@dataclass(frozen=True)
class _Run:
    """The tiles of one size along one axis."""

    size: int
    starts: tuple[int, ...]
    boxes: tuple[Interval, ...]  # per node, relative to the tile: covers the receptive fields of all of them


def _runs(network: Network, axis: int, size: int) -> list[_Run]:
    moved = strides(network, axis)
    assert moved is not None
    length = network.output_shape[1 + axis]
    runs = []
    for tile, starts in ((size, range(0, length - size + 1, size)), (length % size, (length - length % size,))):
        if tile == 0:
            continue
        boxes: list[Interval | None] = [None] * len(network.nodes)
        for start in starts:
            for i, (low, high) in enumerate(receptive_fields(network, (start, start + tile), axis)):
                boxes[i] = union(boxes[i], (low - start * moved[i], high - start * moved[i]))
        runs.append(_Run(tile, tuple(starts), tuple(box or (0, 1) for box in boxes)))
    return runs


@dataclass(frozen=True)
class TileShape:
    """All tiles of one size: their common network, and where each of them stands.

    Attributes:
        size: rows and columns of a tile.
        boxes: per node, the interval of rows and of columns, relative to the tile.
        origins: first row and column of every member.
        variables: rows of the shape's LMI, the input patch included.
        compressed: the same after rotating the patch onto what the first layers see of it.
    """

    size: tuple[int, int]
    boxes: tuple[tuple[Interval, Interval], ...]
    origins: tuple[tuple[int, int], ...]
    variables: int
    compressed: int


@dataclass(frozen=True, eq=False)
class Tiling:
    """A grid of tiles over the output of a convolutional network.

    Args:
        network: for which `is_tileable` holds.
        tile: rows and columns of a tile; the last ones may be smaller.
    """

    network: Network
    tile: tuple[int, int]

    @cached_property
    def shapes(self) -> tuple[TileShape, ...]:
        """One entry for each distinct tile size: up to four."""
        rows, columns = (_runs(self.network, axis, self.tile[axis]) for axis in AXES)
        shapes = []
        for r in rows:
            for c in columns:
                boxes = tuple(zip(r.boxes, c.boxes, strict=True))
                sizes = [
                    node.shape[0] * (b[0][1] - b[0][0]) * (b[1][1] - b[1][0])
                    for node, b in zip(self.network.nodes, boxes, strict=True)
                ]
                origins = tuple((i, j) for i in r.starts for j in c.starts)
                variables, compressed = lmi_sizes(self.network, sizes)
                shapes.append(TileShape((r.size, c.size), boxes, origins, variables, compressed))
        return tuple(shapes)

    @cached_property
    def _input_strides(self) -> tuple[int, ...]:
        """How far the input patch moves, per axis, when the tile moves by one."""
        found = [strides(self.network, axis) for axis in AXES]
        return tuple(own[0] for own in found if own is not None)

    @property
    def count(self) -> int:
        """Number of tiles."""
        return sum(len(shape.origins) for shape in self.shapes)

    def shape_network(self, shape: TileShape) -> Network:
        """The network of a tile shape: the layers on its boxes, everything outside them zero."""
        nodes: list[Node] = []
        index: list[int] = []
        for i, node in enumerate(self.network.nodes):
            box = shape.boxes[i]
            extent = tuple(high - low for low, high in box)
            inputs = []
            for j in node.inputs:
                wanted = [reads(node.layer, box[axis], axis) for axis in AXES]
                inputs.append(fitted(nodes, index[j], shape.boxes[j], wanted, node.path))
            layer = node.layer.padded((0, 0, 0, 0)) or node.layer
            if isinstance(layer, Activation):
                layer = _reaching_zero(layer)
            nodes.append(Node(node.path, layer, tuple(inputs), (node.shape[0], *extent)))
            index.append(len(nodes) - 1)
        return Network(tuple(nodes))

    @cached_property
    def patches(self) -> list[NDArray[np.int64]]:
        """For every shape the entries of the network's input that its members read, shape (members, entries).

        Entries outside the grid are zero; the number of the input's entries stands for them.
        """
        nothing = self.network.nodes[0].size
        found = []
        for shape in self.shapes:
            size = self.network.input_shape[0] * math.prod(high - low for low, high in shape.boxes[0])
            members = np.full((len(shape.origins), size), nothing, dtype=np.int64)
            for row, origin in zip(members, shape.origins, strict=True):
                local, absolute = self.input_entries(shape, origin)
                row[local] = absolute
            found.append(members)
        return found

    def input_entries(self, shape: TileShape, origin: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where a member's input patch lies: (entries of the shape's patch, the same entries of the network's input).

        Both are flat indices; entries of the shape's patch outside the grid are left out.
        """
        channels, *grid = self.network.input_shape
        local, absolute = [], []
        for axis in AXES:
            low, high = shape.boxes[0][axis]
            positions = np.arange(low, high) + origin[axis] * self._input_strides[axis]
            inside = (positions >= 0) & (positions < grid[axis])
            local.append(np.flatnonzero(inside))
            absolute.append(positions[inside])
        patch = (channels, *(high - low for low, high in shape.boxes[0]))
        return _flat(patch, *local), _flat((channels, *grid), *absolute)


def _flat(shape: tuple[int, ...], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
    index = np.arange(math.prod(shape)).reshape(shape)
    return np.ascontiguousarray(index[:, rows[:, None], columns]).ravel()


def lmi_sizes(network: Network, sizes: Sequence[int]) -> tuple[int, int]:
    """Rows of the LMI of a network whose nodes have `sizes` entries: all of them, and after compressing the input.

    The input enters through the pre-activations and outputs that read it directly; a rotation of the input makes all
    but as many of its entries vanish from them.
    """
    neurons = sum(sizes[i] for i in network.activations)
    direct = reaches_without_activation(network, [0])
    seen = sum(sizes[i] for i in direct if isinstance(network.nodes[i].layer, Activation) or i == len(sizes) - 1)
    return sizes[0] + neurons, min(sizes[0], seen) + neurons


def proof_size(network: Network) -> int:
    """Rows of the matrix that proves an LMI: the input drops out where it reaches ReLU-like activations only."""
    direct = reaches_without_activation(network, [0])
    readers = [network.nodes[i].layer for i in direct]
    apart = len(network.nodes) - 1 not in direct and all(
        layer.alpha * layer.beta == 0 for layer in readers if isinstance(layer, Activation)
    )
    return network.neurons if apart else network.neurons + network.nodes[0].size
