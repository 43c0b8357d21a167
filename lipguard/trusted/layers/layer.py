"""What is said of every kind of layer.

A layer is affine (its linear part acts on differences of inputs, its bias only moves the function) or a
slope-restricted activation. Weights are float64 on the CPU: the conversion from a narrower float is exact.

Whatever is known of a layer is stated by its class, or by a row for its class in a table. There are no defaults, for
one that fits most layers is wrong for the next.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Layer(abc.ABC):
    """An operation of the network on tensors of shape (batch, *shape).

    Every kind derives from this class and states all that is asked of it. A class derived from a kind is one of that
    kind in every table, and may change none of what it states.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        stated = {"linear", "forward", "absolute", "roundings", "adjoint_roundings"}
        if Layer not in cls.__bases__ and stated & set(vars(cls)):
            raise TypeError(f"{cls.__name__} is no longer a {cls.__bases__[0].__name__}: derive it from Layer.")

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
    def roundings(self) -> int:
        """How many relative roundings one output of `linear` collects, errors of the weights included."""

    @abc.abstractmethod
    def adjoint_roundings(self) -> int:
        """The same for one output of the transposed map."""


def no_row(layer: Layer, table: str) -> NotImplementedError:
    """The error to raise where a table does not know a kind of layer."""
    return NotImplementedError(f"{type(layer).__name__} has no row in the table of {table}. Add one.")
