"""Convolutions of images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lipguard.trusted.layers.layer import Layer


@dataclass(frozen=True, eq=False)
class Conv2d(Layer):
    """Cross-correlation with zero padding (left, right, top, bottom); negative padding crops.

    `weight_ulps` counts the roundings in the weights themselves, where they are not a float tensor of the user's
    (an average pooling is a depthwise convolution whose weight 1/n is rounded once).
    """

    weight: Tensor  # (out, in / groups, kernel rows, kernel columns)
    bias: Tensor | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    weight_ulps: int = 0

    def linear(self, *inputs: Tensor) -> Tensor:
        return self._convolve(inputs[0], None)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._convolve(inputs[0], self.bias)

    def _convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        weight = self.weight.to(x)
        bias = None if bias is None else bias.to(x)
        return F.conv2d(F.pad(x, self.padding), weight, bias, self.stride, 0, self.dilation, self.groups)

    def absolute(self) -> Conv2d:
        return dataclasses.replace(self, weight=self.weight.abs(), bias=None)

    def roundings(self) -> int:
        return self.weight[0].numel() + self.weight_ulps

    def adjoint_roundings(self) -> int:
        return self.weight[:, 0].numel() + self.weight_ulps
