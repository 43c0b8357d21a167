"""Matrices and entrywise factors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lipguard.trusted.layers.layer import Layer


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

    def roundings(self) -> int:
        return self.weight.shape[1] + self.weight_ulps

    def adjoint_roundings(self) -> int:
        return self.weight.shape[0] + self.weight_ulps


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

    def roundings(self) -> int:
        return 1 + self.weight_ulps

    def adjoint_roundings(self) -> int:
        return self.roundings()
