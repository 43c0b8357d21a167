"""Receptive fields: the box of every node that some output positions depend on, one axis at a time.

Outside of a node's grid everything is zero, so that boxes end there.
"""

from __future__ import annotations

from collections.abc import Sequence

from lipguard.trusted.layers import Interval, Layer, Pad, Window, no_images
from lipguard.trusted.network.graph import Network, Node

ROWS, COLUMNS = 0, 1
AXES = (ROWS, COLUMNS)


def reads(layer: Layer, box: Interval, axis: int) -> Interval:
    """The input positions that the output positions `box` read, before clipping.

    Raises:
        NotImplementedError: the layer has no such boxes.
    """
    return _window(layer, axis).reads(box)


def strides(network: Network, axis: int) -> list[int] | None:
    """How far a node's receptive field moves when the output positions move by one; None where branches disagree."""
    found: list[int | None] = [None] * len(network.nodes)
    found[-1] = 1
    for i in range(len(network.nodes) - 1, 0, -1):
        own = found[i]
        assert own is not None  # every node reaches the output
        for j in network.nodes[i].inputs:
            moved = own * _window(network.nodes[i].layer, axis).stride
            if found[j] not in (None, moved):
                return None
            found[j] = moved
    return [s or 1 for s in found]


def receptive_fields(network: Network, output: Interval, axis: int, *, may_be_empty: bool = True) -> list[Interval]:
    """The receptive field of some output positions at every node, within its grid.

    Args:
        network: of images.
        output: positions of its output.
        axis: `ROWS` or `COLUMNS`.
        may_be_empty: whether a node may be read beyond its grid only. Then one position of what is read is kept.

    Raises:
        ValueError: it may not, and one is.
    """
    fields: list[Interval | None] = [None] * len(network.nodes)
    fields[-1] = output
    for i in range(len(network.nodes) - 1, 0, -1):
        own = fields[i]
        assert own is not None
        read = reads(network.nodes[i].layer, own, axis)
        for j in network.nodes[i].inputs:
            low, high = max(read[0], 0), min(read[1], network.nodes[j].shape[1 + axis])
            if low >= high:
                if not may_be_empty:
                    raise ValueError(f"{network.nodes[i].path}: output positions {own} read padding only.")
                low, high = read[0], read[0] + 1
            fields[j] = union(fields[j], (low, high))
    return [field or (0, 1) for field in fields]


def union(a: Interval | None, b: Interval) -> Interval:
    """The smallest interval that holds both."""
    return b if a is None else (min(a[0], b[0]), max(a[1], b[1]))


def padding(have: Sequence[Interval], want: Sequence[Interval]) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) by which an image on the box `have` is padded, or cropped, to one on `want`."""
    (top, bottom), (left, right) = ((h[0] - w[0], w[1] - h[1]) for h, w in zip(have, want, strict=True))
    return left, right, top, bottom


def fitted(nodes: list[Node], source: int, have: Sequence[Interval], want: Sequence[Interval], path: str) -> int:
    """The node with the image of `source`, which lies on the box `have`, padded with zeros or cropped to `want`."""
    needed = padding(have, want)
    if not any(needed):
        return source
    shape = (nodes[source].shape[0], *(high - low for low, high in want))
    nodes.append(Node(path, Pad(needed), (source,), shape))
    return len(nodes) - 1


def _window(layer: Layer, axis: int) -> Window:
    windows = layer.windows()
    if windows is None:
        raise no_images(layer)
    return windows[axis]
