"""Matrices and entrywise factors."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch.nn.functional as F
from torch import Tensor

from lipguard.trusted.layers.layer import ITSELF, Box, Layer, Matrix, Padding, Shape, Windows, no_images


@dataclass(frozen=True, eq=False)
class Linear(Layer):
    """A matrix on the last axis. `note` says which function it stands for, where that is not plain."""

    weight: Tensor  # (out, in)
    bias: Tensor | None = None
    weight_ulps: int = 0
    note: str = ""

    def linear(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], self.weight.to(inputs[0]))

    def forward(self, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        return F.linear(x, self.weight.to(x), None if self.bias is None else self.bias.to(x))

    def absolute(self) -> Linear:
        return dataclasses.replace(self, weight=self.weight.abs(), bias=None)

    def support(self) -> Linear:
        return dataclasses.replace(self, weight=(self.weight != 0).to(self.weight))

    def squared(self) -> Linear:
        return dataclasses.replace(self, weight=self.weight.square(), bias=None)

    def roundings(self) -> int:
        return self.weight.shape[1] + self.weight_ulps

    def adjoint_roundings(self) -> int:
        return self.weight.shape[0] + self.weight_ulps

    def multiplications(self, shape: Shape) -> float:
        return float(self.weight.numel() * math.prod(shape[:-1]))

    def windows(self) -> None:
        return

    def padded(self, padding: Padding) -> None:
        return

    def on_box(self, box: Box, shape: Shape) -> Layer:
        raise no_images(self)

    def matrix(self, input_shape: Shape, shape: Shape) -> Matrix:
        weight = sp.csr_array(self.weight.cpu().numpy())
        repeats = int(np.prod(input_shape[:-1]))
        return weight if repeats == 1 else sp.kron(sp.eye_array(repeats), weight, format="csr")


@dataclass(frozen=True, eq=False)
class Scale(Layer):
    """Entrywise multiplication: batch norm in eval mode, or the varying divisor of a pooling at the border."""

    scale: Tensor  # broadcasts against (batch, *shape)
    bias: Tensor | None = None
    weight_ulps: int = 0
    bias_terms: Tensor | None = None  # the sum of the magnitudes that a bias was computed from, if it was

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * self.scale.to(inputs[0])

    def forward(self, *inputs: Tensor) -> Tensor:
        y = self.linear(*inputs)
        return y if self.bias is None else y + self.bias.to(y)

    def absolute(self) -> Scale:
        return dataclasses.replace(self, scale=self.scale.abs(), bias=None, bias_terms=None)

    def support(self) -> Scale:
        return dataclasses.replace(self, scale=(self.scale != 0).to(self.scale))

    def squared(self) -> Scale:
        return dataclasses.replace(self, scale=self.scale.square(), bias=None, bias_terms=None)

    def roundings(self) -> int:
        return 1 + self.weight_ulps

    def adjoint_roundings(self) -> int:
        return self.roundings()

    def multiplications(self, shape: Shape) -> float:
        return 0.0

    def windows(self) -> Windows:
        return ITSELF

    def padded(self, padding: Padding) -> None:
        return

    def on_box(self, box: Box, shape: Shape) -> Scale:
        (top, bottom), (left, right) = box
        values = {"scale": self.scale, "bias": self.bias}
        parts = {
            name: value.expand(1, *shape)[..., top:bottom, left:right]
            for name, value in values.items()
            if value is not None and not is_constant(value)
        }
        return dataclasses.replace(self, **parts)  # type: ignore[arg-type]

    def matrix(self, input_shape: Shape, shape: Shape) -> Matrix:
        return sp.diags_array(np.broadcast_to(self.scale.cpu().numpy(), (1, *shape)).ravel(), format="csr")


def is_constant(factor: Tensor) -> bool:
    """Whether a factor is the same at all positions of an image."""
    return tuple(factor.shape[-2:]) == (1, 1)
