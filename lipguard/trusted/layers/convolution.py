"""Convolutions of images."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch.nn.functional as F
from torch import Tensor

from lipguard.trusted.layers.layer import Box, Indices, Layer, Matrix, Padding, Shape, Window, Windows


@dataclass(frozen=True, eq=False)
class Conv2d(Layer):
    """Cross-correlation with zero padding (left, right, top, bottom); negative padding crops.

    `weight_ulps` counts the roundings in the weights themselves, where they are not a float tensor of the user's
    (an average pooling is a depthwise convolution whose weight 1/n is rounded once).
    """

    weight: Tensor  # (out, in / groups, kernel rows, kernel columns)
    bias: Tensor | None = None
    stride: tuple[int, int] = (1, 1)
    padding: Padding = (0, 0, 0, 0)
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

    def support(self) -> Conv2d:
        return dataclasses.replace(self, weight=(self.weight != 0).to(self.weight))

    def squared(self) -> Conv2d:
        return dataclasses.replace(self, weight=self.weight.square(), bias=None)

    def roundings(self) -> int:
        return self.weight[0].numel() + self.weight_ulps

    def adjoint_roundings(self) -> int:
        return self.weight[:, 0].numel() + self.weight_ulps

    def multiplications(self, shape: Shape) -> float:
        return float(math.prod(shape) * self.weight[0].numel())

    def windows(self) -> Windows:
        befores = (self.padding[2], self.padding[0])
        kernel = self.weight.shape[2:]
        rows, columns = (
            Window(stride, before, dilation * (taps - 1) + 1)
            for stride, before, dilation, taps in zip(self.stride, befores, self.dilation, kernel, strict=True)
        )
        return rows, columns

    def padded(self, padding: Padding) -> Conv2d:
        return dataclasses.replace(self, padding=padding)

    def on_box(self, box: Box, shape: Shape) -> Conv2d:
        return self

    def matrix(self, input_shape: Shape, shape: Shape) -> Matrix:
        weight = self.weight.cpu().numpy()
        into, out = weight.shape[1], weight.shape[0] // self.groups
        before = (self.padding[2], self.padding[0])
        # By axis: what every output position reads with every tap, shape (positions, taps); negative where it is
        # padding.
        reads = [
            _reads(weight.shape[2 + axis], self.stride[axis], self.dilation[axis], before[axis], input_shape[1 + axis],
                   shape[1 + axis])
            for axis in (0, 1)
        ]  # fmt: skip
        rows, columns = reads[0][:, None, :, None], reads[1][None, :, None, :]
        inside = (rows >= 0) & (columns >= 0)  # (output rows, output columns, taps, taps)
        pixel = (rows * input_shape[2] + columns).astype(np.int32)
        counts = np.tile(into * inside.sum(axis=(2, 3)).ravel(), weight.shape[0])
        pointers = np.concatenate([[0], np.cumsum(counts)])
        # Row by row: axes (output channel, output pixels, input channel, taps), as sparse rows have them.
        full = (weight.shape[0], *inside.shape[:2], into, *inside.shape[2:])
        channel = np.arange(self.groups)[:, None, None] * into + np.arange(into)[None, None, :]
        channel = np.broadcast_to(channel, (self.groups, out, into)).reshape(weight.shape[0], 1, 1, into, 1, 1)
        start = (channel * (input_shape[1] * input_shape[2])).astype(np.int32)
        read = start + pixel[None, :, :, None]
        value = np.broadcast_to(weight[:, None, None], full)
        if inside.all():
            indices, data = read.ravel(), value.ravel()
        else:
            kept = np.broadcast_to(inside[None, :, :, None], full)
            indices, data = read[kept], value[kept]
        size = (math.prod(shape), math.prod(input_shape))
        return sp.csr_array((data, indices, pointers.astype(np.int32)), shape=size)


def _reads(taps: int, stride: int, dilation: int, before: int, size: int, output: int) -> Indices:
    source = np.arange(output)[:, None] * stride + np.arange(taps) * dilation - before
    return np.where((source >= 0) & (source < size), source, -1)
