"""Layers that move, repeat, drop or add up entries as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lipguard.trusted.layers.convolution import Conv2d
from lipguard.trusted.layers.layer import (
    ITSELF,
    Box,
    Layer,
    Matrix,
    Padding,
    Shape,
    Weightless,
    Window,
    Windows,
    assembled,
    identity,
    no_images,
)


@dataclass(frozen=True, eq=False)
class Input(Weightless):
    """The network's input, as it is; it has no inputs of its own."""

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    def roundings(self) -> int:
        return 0

    def adjoint_roundings(self) -> int:
        return 0

    def matrix(self, input_shape: Shape, shape: Shape) -> Matrix:
        return identity(shape)

    def windows(self) -> Windows:
        return ITSELF

    def padded(self, padding: Padding) -> None:
        return

    def on_box(self, box: Box, shape: Shape) -> Layer:
        return self


@dataclass(frozen=True, eq=False)
class Pad(Weightless):
    """Zero padding of the last axes, in the order of `torch.nn.functional.pad`; negative padding crops."""

    padding: tuple[int, ...]

    def linear(self, *inputs: Tensor) -> Tensor:
        return F.pad(inputs[0], self.padding)

    def roundings(self) -> int:
        return 0

    def adjoint_roundings(self) -> int:
        return 0

    def matrix(self, input_shape: Shape, shape: Shape) -> Matrix:
        index = torch.arange(1, int(np.prod(input_shape)) + 1, dtype=torch.float64).reshape(1, *input_shape)
        source = F.pad(index, self.padding).ravel().numpy().astype(np.int64)  # 0 where it is padding
        rows = np.flatnonzero(source)
        return assembled(np.ones(len(rows)), rows, source[rows] - 1, input_shape, shape)

    def windows(self) -> Windows | None:
        if len(self.padding) > 4:
            return None
        before = (*self.padding, 0, 0, 0, 0)
        return Window(before=before[2]), Window(before=before[0])

    def padded(self, padding: Padding) -> Pad:
        return Pad(padding)

    def on_box(self, box: Box, shape: Shape) -> Pad:
        return self


@dataclass(frozen=True, eq=False)
class Reshape(Weightless):
    """A new shape for the same entries in the same order."""

    shape: Shape

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0].reshape(-1, *self.shape)

    def roundings(self) -> int:
        return 0

    def adjoint_roundings(self) -> int:
        return 0

    def matrix(self, input_shape: Shape, shape: Shape) -> Matrix:
        return identity(shape)

    def windows(self) -> None:
        return

    def padded(self, padding: Padding) -> None:
        return

    def on_box(self, box: Box, shape: Shape) -> Layer:
        raise no_images(self)


@dataclass(frozen=True, eq=False)
class Pick(Weightless):
    """Entries of the input, each wherever it is wanted, and zeros: whatever only moves, repeats or drops entries.

    `index` has the shape of the output and points into the flat input; -1 stands for a zero.
    """

    index: Tensor  # int64

    def linear(self, *inputs: Tensor) -> Tensor:
        x = F.pad(inputs[0].reshape(len(inputs[0]), -1), (1, 0))
        return x.index_select(1, self.index.to(x.device).flatten() + 1).reshape(-1, *self.index.shape)

    @property
    def most(self) -> int:
        """How often an entry is picked, at most."""
        picked = self.index[self.index >= 0]
        return int(torch.bincount(picked).max()) if picked.numel() else 0

    def roundings(self) -> int:
        return 0

    def adjoint_roundings(self) -> int:
        return max(self.most - 1, 0)

    def matrix(self, input_shape: Shape, shape: Shape) -> Matrix:
        source = self.index.cpu().numpy().ravel()
        rows = np.flatnonzero(source >= 0)
        return assembled(np.ones(len(rows)), rows, source[rows], input_shape, shape)

    def windows(self) -> None:
        return

    def padded(self, padding: Padding) -> None:
        return

    def on_box(self, box: Box, shape: Shape) -> Layer:
        raise no_images(self)


def picks(layer: Layer) -> bool:
    """Whether every entry of the output is one of the input, or zero."""
    if isinstance(layer, Conv2d):  # of one tap
        each = len(layer.weight) == layer.groups == layer.weight.numel()
        return each and bool((layer.weight == 1).all()) and not layer.weight_ulps
    return isinstance(layer, (Pick, Pad))


@dataclass(frozen=True, eq=False)
class Add(Weightless):
    """The sum of two or more branches."""

    def linear(self, *inputs: Tensor) -> Tensor:
        return torch.stack(inputs).sum(0) if len(inputs) > 2 else inputs[0] + inputs[1]

    def roundings(self) -> int:
        return 1  # for every input beyond the first; who counts knows how many there are

    def adjoint_roundings(self) -> int:
        return 1

    def matrix(self, input_shape: Shape, shape: Shape) -> Matrix:
        return identity(shape)

    def windows(self) -> Windows:
        return ITSELF

    def padded(self, padding: Padding) -> None:
        return

    def on_box(self, box: Box, shape: Shape) -> Layer:
        return self


@dataclass(frozen=True, eq=False)
class Mosaic(Weightless):
    """Its inputs as the tiles of one image, on the last two axes: row by row, `columns` of them in a row."""

    columns: int

    def linear(self, *inputs: Tensor) -> Tensor:
        rows = [torch.cat(inputs[i : i + self.columns], -1) for i in range(0, len(inputs), self.columns)]
        return torch.cat(rows, -2)

    def roundings(self) -> int:
        return 0

    def adjoint_roundings(self) -> int:
        return 0

    def matrix(self, input_shape: Shape, shape: Shape) -> Matrix:
        raise NotImplementedError("A Mosaic acts differently on each of its inputs. It stands between pieces only.")

    def windows(self) -> None:
        return

    def padded(self, padding: Padding) -> None:
        return

    def on_box(self, box: Box, shape: Shape) -> Layer:
        raise no_images(self)

    def apart(self, shapes: Sequence[Shape], values: Tensor) -> list[Tensor]:
        """The part of `values`, shape (*grid), that lies on each of the tiles."""
        columns = [shape[-1] for shape in shapes[: self.columns]]
        rows = [shape[-2] for shape in shapes[:: self.columns]]
        return [part for row in torch.split(values, rows, -2) for part in torch.split(row, columns, -1)]
