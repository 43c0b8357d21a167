"""Products of two values that depend on the input. They have a constant only where both factors are bounded."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from lipguard.trusted.layers.layer import Box, Layer, Matrix, Padding, Shape, no_images


@dataclass(frozen=True, eq=False)
class Bilinear(Layer, family=True):
    """A layer that is linear in each of its two inputs, and not in both.

    a b - c d = (a + c) / 2 (b - d) + (a - c) (b + d) / 2: differences are those of one input times means of the other,
    which are among its values on a convex domain. So a network is bounded after its products have been replaced by
    factors and matrices of which no more is known (`lipguard.trusted.regions.bounded`), and not before.
    """

    @abc.abstractmethod
    def at(self, values: tuple[Tensor, ...], moves: tuple[Tensor, ...]) -> Tensor:
        """The derivative at some values, in some directions."""

    def linear(self, *inputs: Tensor) -> Tensor:
        raise self._not_linear()

    def absolute(self) -> Layer:
        raise self._not_linear()

    def support(self) -> Layer:
        raise self._not_linear()

    def squared(self) -> None:
        """None: it has no rows."""
        return

    def roundings(self) -> int:
        raise self._not_linear()

    def adjoint_roundings(self) -> int:
        raise self._not_linear()

    def matrix(self, input_shape: Shape, shape: Shape) -> Matrix:
        raise self._not_linear()

    def multiplications(self, shape: Shape) -> float:
        """Few: what it takes is in what it is replaced by."""
        return 0.0

    def windows(self) -> None:
        """None: what it makes is not cut into tiles."""
        return

    def padded(self, padding: Padding) -> None:
        """None."""
        return

    def on_box(self, box: Box, shape: Shape) -> Layer:
        raise no_images(self)

    def _not_linear(self) -> NotImplementedError:
        return NotImplementedError(f"A {type(self).__name__} has no linear part: it has to be bounded on a domain.")


@dataclass(frozen=True, eq=False)
class Product(Bilinear):
    """The product of two values of one shape, entry by entry."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * inputs[1]

    def at(self, values: tuple[Tensor, ...], moves: tuple[Tensor, ...]) -> Tensor:
        return values[0] * moves[1] + moves[0] * values[1]


@dataclass(frozen=True, eq=False)
class MatrixProduct(Bilinear):
    """The product of two stacks of matrices, shapes (*stack, n, k) and (*stack, k, m)."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.matmul(inputs[0], inputs[1])

    def at(self, values: tuple[Tensor, ...], moves: tuple[Tensor, ...]) -> Tensor:
        return torch.matmul(values[0], moves[1]) + torch.matmul(moves[0], values[1])
