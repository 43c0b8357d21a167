"""Pieces of a cut network as tiles of their output grid, each with a copy of all that it reads.

A tile computes what lies in its receptive field once more, from copies of the entries of the piece's input there. The
function is the same; what a tile hands back to the piece before is a diagonal form, and where tiles overlap their forms
add up. So the receptive input partition of DCP (arXiv 2403.18613) is a network like any other, whose multipliers the
power iteration finds together, and whose LMI falls into one small matrix per tile.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

from lipguard.trusted.layers import Box, Interval, Mosaic, copies
from lipguard.trusted.network.boxes import AXES, fitted, padding, reads, receptive_fields
from lipguard.trusted.network.cutting import part_of, pieces_of
from lipguard.trusted.network.graph import Network, Node

Grid = tuple[int, int]  # tiles per axis: rows, columns
WHOLE: Grid = (1, 1)


def unfolded(network: Network, grids: Mapping[int, Grid]) -> Network:
    """The network with some of its pieces in tiles.

    Args:
        network: cut into pieces (`cut_behind`).
        grids: tiles per axis, by the index of a piece.

    Raises:
        ValueError: a piece is not made of images, or has a tile that reads nothing.
    """
    grids = {k: grid for k, grid in grids.items() if grid != WHOLE}
    starts = {pieces_of(network)[k][0]: k for k in grids}
    done = {i for k in grids for i in pieces_of(network)[k]}
    nodes: list[Node] = []
    index: dict[int, int] = {}
    for i, node in enumerate(network.nodes):
        if i == 0 or i not in done:
            nodes.append(dataclasses.replace(node, inputs=tuple(index[j] for j in node.inputs)))
            index[i] = len(nodes) - 1
        if i in starts:
            piece = pieces_of(network)[starts[i]]
            source = index[node.inputs[0]] if i else 0
            index[piece[-1]] = _add_tiles(nodes, source, part_of(network, piece), grids[starts[i]])
    return Network(tuple(nodes))


def most_tiles(piece: Network) -> Grid:
    """The finest grid of tiles that a piece can have; (1, 1) where it is not made of images, or has groups."""
    images = all(len(node.shape) == 3 and node.layer.windows() is not None for node in piece.nodes)
    if not (images and len(piece.nodes) > 1):
        return WHOLE
    return piece.output_shape[1], piece.output_shape[2]


def _add_tiles(nodes: list[Node], source: int, piece: Network, grid: Grid) -> int:
    """Append the tiles of a piece that reads node `source`, and what puts them together."""
    finest = most_tiles(piece)
    if not all(1 <= n <= most for n, most in zip(grid, finest, strict=True)):
        raise ValueError(f"Expected at most {finest} tiles per axis, but got {grid}.")
    height, width = piece.output_shape[1:]
    ends = [
        _add_tile(nodes, source, piece, (rows, columns))
        for rows, columns in itertools.product(_intervals(height, grid[0]), _intervals(width, grid[1]))
    ]
    nodes.append(Node(piece.nodes[-1].path, Mosaic(grid[1]), tuple(ends), piece.output_shape))
    return len(nodes) - 1


def _intervals(length: int, parts: int) -> list[Interval]:
    edges = [length * k // parts for k in range(parts + 1)]
    return list(itertools.pairwise(edges))


def _add_tile(nodes: list[Node], source: int, piece: Network, output: Box) -> int:
    fields = (receptive_fields(piece, output[axis], axis, may_be_empty=False) for axis in AXES)
    boxes: list[Box] = list(zip(*fields, strict=True))
    first, (_, height, width) = piece.nodes[0], piece.nodes[0].shape
    start = fitted(nodes, source, ((0, height), (0, width)), boxes[0], first.path)
    nodes.append(Node(first.path, copies(), (start,), nodes[start].shape))
    index = [len(nodes) - 1]
    for i, node in enumerate(piece.nodes[1:], start=1):
        shape = (node.shape[0], *(high - low for low, high in boxes[i]))
        wanted = tuple(reads(node.layer, boxes[i][axis], axis) for axis in AXES)
        layer = node.layer.padded(padding(boxes[node.inputs[0]], wanted))
        inputs = [index[j] for j in node.inputs]
        if layer is None:
            layer = node.layer.on_box(boxes[i], node.shape)
            inputs = [fitted(nodes, index[j], boxes[j], wanted, node.path) for j in node.inputs]
        nodes.append(Node(node.path, layer, tuple(inputs), shape))
        index.append(len(nodes) - 1)
    return index[-1]
