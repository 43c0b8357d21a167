"""What is said of every kind of layer.

A layer is affine (its linear part acts on differences of inputs, its bias only moves the function) or a
slope-restricted activation. Weights are float64 on the CPU: the conversion from a narrower float is exact.

A class states all that is known of its kind, and what it does not state keeps it from being instantiated: there are no
defaults, for one that fits most layers is wrong for the next. Only the certified norm stands elsewhere
(`lipguard.trusted.norms.layers`), in a table without a default.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from torch import Tensor

Shape = tuple[int, ...]
Interval = tuple[int, int]  # half-open; may leave the grid
Box = tuple[Interval, Interval]  # rows and columns
Padding = tuple[int, int, int, int]  # (left, right, top, bottom); negative crops
Indices = NDArray[np.int64]
Matrix = Any  # scipy.sparse.csr_array, which scipy does not type


@dataclass(frozen=True)
class Window:
    """What a position of an image along one axis is made of: `extent` positions from p * stride - before on."""

    stride: int = 1
    before: int = 0
    extent: int = 1

    def reads(self, positions: Interval) -> Interval:
        """What an interval of positions reads, before clipping."""
        low, high = positions
        return low * self.stride - self.before, (high - 1) * self.stride - self.before + self.extent


Windows = tuple[Window, Window]  # of rows and of columns
ITSELF: Windows = (Window(), Window())  # every position is made of the one at its place


@dataclass(frozen=True, eq=False)
class Layer(abc.ABC):
    """An operation of the network on tensors of shape (batch, *shape).

    Every kind derives from this class, or from `Weightless`, and states all that is asked of it. A class derived from a
    kind is one of that kind everywhere, and may change none of what it states.
    """

    _families: ClassVar[set[type]] = set()

    def __init_subclass__(cls, *, family: bool = False) -> None:
        super().__init_subclass__()
        base = cls.__mro__[1]
        if base is not Layer and base not in Layer._families and FACTS & set(vars(cls)):
            raise TypeError(f"{cls.__name__} is no longer a {base.__name__}: derive it from Layer.")
        if family:
            Layer._families.add(cls)

    @abc.abstractmethod
    def linear(self, *inputs: Tensor) -> Tensor:
        """The linear part: how differences of the inputs map to differences of the output."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """The layer itself, bias included."""
        return self.linear(*inputs)

    @abc.abstractmethod
    def absolute(self) -> Layer:
        """The same layer with the magnitudes of its weights: it carries entrywise error bounds forward."""

    @abc.abstractmethod
    def support(self) -> Layer:
        """The same layer with ones for all weights but zeros: it counts paths."""

    @abc.abstractmethod
    def squared(self) -> Layer | None:
        """The same layer with the squares of its weights, for the lengths of rows; None where each is zero or one."""

    @abc.abstractmethod
    def roundings(self) -> int:
        """How many relative roundings one output of `linear` collects, errors of the weights included."""

    @abc.abstractmethod
    def adjoint_roundings(self) -> int:
        """The same for one output of the transposed map."""

    @abc.abstractmethod
    def matrix(self, input_shape: Shape, shape: Shape) -> Matrix:
        """The matrix by which the layer acts on one of its inputs, shape (entries out, entries in), sparse by rows.

        Every entry is a weight, a one, or (where a kernel meets an entry twice) nothing else: no rounding takes place.
        """

    @abc.abstractmethod
    def multiplications(self, shape: Shape) -> float:
        """How many of them an output of this shape takes; 0 for no more than a few operations per entry."""

    @abc.abstractmethod
    def windows(self) -> Windows | None:
        """What a box of an image that it makes is made of, by axis; None where that is not a box of what it reads."""

    @abc.abstractmethod
    def padded(self, padding: Padding) -> Layer | None:
        """The layer with another padding of the image that it reads; None where it has none of its own."""

    @abc.abstractmethod
    def on_box(self, box: Box, shape: Shape) -> Layer:
        """The layer for a box of an image that it makes, of shape (channels, rows, columns) in all."""


# What a class that is one of a kind may not change.
FACTS = Layer.__abstractmethods__ | {"forward"}


@dataclass(frozen=True, eq=False)
class Weightless(Layer, family=True):
    """A layer of which every weight is zero or one: its own magnitudes, squares and support."""

    def absolute(self) -> Layer:
        """Itself."""
        return self

    def support(self) -> Layer:
        """Itself."""
        return self

    def squared(self) -> None:
        """None: they are the weights."""
        return

    def multiplications(self, shape: Shape) -> float:
        """None."""
        return 0.0


def identity(shape: Shape) -> Matrix:
    """The matrix of what keeps all entries in their order."""
    return sp.eye_array(int(np.prod(shape)), format="csr")


def assembled(values: NDArray[np.float64], rows: Indices, columns: Indices, from_: Shape, to: Shape) -> Matrix:
    """A sparse matrix of entries."""
    return sp.csr_array((values, (rows, columns)), shape=(int(np.prod(to)), int(np.prod(from_))))


def no_images(layer: Layer) -> NotImplementedError:
    """The error to raise where a layer without windows is asked for a part of itself."""
    return NotImplementedError(f"{type(layer).__name__} does not make boxes of images from boxes.")


def no_row(layer: Layer, table: str) -> NotImplementedError:
    """The error to raise where a table does not know a kind of layer."""
    return NotImplementedError(f"{type(layer).__name__} has no row in the table of {table}. Add one.")
