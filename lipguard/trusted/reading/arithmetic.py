"""Sums, products with constants, and matrices."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.layers import Shape
from lipguard.trusted.reading.builder import Builder, Kind, Ref
from lipguard.trusted.reading.composing import inverse
from lipguard.trusted.reading.moving import moved, reshaped
from lipguard.trusted.reading.products import multiplied

_MATRIX_ULPS = 16  # of weights that torch, or we, computed: sums of products of a few numbers


def _linear(builder: Builder, x: Ref, weight: Tensor, bias: Tensor | None = None) -> Ref:
    return builder.emit(
        layers.Linear(builder.constant(weight, "weight"), builder.constant(bias, "bias")),  # type: ignore[arg-type]
        x,
    )


def along(builder: Builder, x: Ref, axis: int, matrix: Tensor) -> Ref:
    """A matrix (out, in), each entry of which is rounded a few times, on one axis of a sample."""
    layer = layers.Linear(matrix, weight_ulps=_MATRIX_ULPS)
    if axis == len(x.shape) - 1:
        return builder.emit(layer, x)
    found = builder.emit(layer, moved(builder, x, lambda v: v.transpose(axis + 1, -1)))
    return moved(builder, found, lambda v: v.transpose(axis + 1, -1))


def _mean(builder: Builder, x: Ref, dim: Any = None, keepdim: bool = False, axis: Any = None) -> Ref:
    return _sum(builder, x, dim if axis is None else axis, keepdim, mean=True)


def _sum(builder: Builder, x: Ref, dim: Any = None, keepdim: bool = False, *, mean: bool = False) -> Ref:
    """Over some axes of a sample: they become the last one, on which a matrix of ones acts."""
    axes = len(x.shape) + 1
    if dim is None:
        raise InvalidNetworkError(f"{builder.path}: it reduces the batch axis. Name the axes of a sample.")
    over = sorted({d % axes for d in ((dim,) if isinstance(dim, int) else tuple(dim))})
    if 0 in over:
        raise InvalidNetworkError(f"{builder.path}: it reduces the batch axis. Name the axes of a sample.")
    kept = [d for d in range(1, axes) if d not in over]
    count = math.prod(x.shape[d - 1] for d in over)
    gathered = moved(builder, x, lambda v: v.permute(0, *kept, *over).flatten(1 + len(kept)))
    if not kept:
        gathered = reshaped(builder, gathered, lambda v: v[:, None])
    total = builder.emit(layers.Linear(torch.ones(1, count, dtype=torch.float64)), gathered)
    if mean:
        total = builder.emit(layers.Scale(torch.full((1,), 1 / count, dtype=torch.float64), weight_ulps=1), total)
    shape = [1 if d in over else x.shape[d - 1] for d in range(1, axes) if keepdim or d not in over]
    return reshaped(builder, total, lambda v: v.reshape(len(v), *shape))


def _add(builder: Builder, x: Any, y: Any, *, alpha: float = 1) -> Ref:
    if not (isinstance(x, Ref) and isinstance(y, Ref)):
        if not isinstance(x, Ref):
            x, y = (scaled(builder, y, alpha), x)
            alpha = 1
        return shifted(builder, x, y, alpha)
    if x.shape != y.shape:
        raise builder.unsupported(f"adding shapes {x.shape} and {y.shape}", "Add equal shapes.")
    return builder.emit(layers.Add(), x, scaled(builder, y, alpha))


def _subtract(builder: Builder, x: Any, y: Any, *, alpha: float = 1) -> Ref:
    return _add(builder, x, y, alpha=-alpha)


def _multiply(builder: Builder, x: Any, y: Any) -> Ref:
    if isinstance(x, Ref) and isinstance(y, Ref):
        return multiplied(builder, x, y)
    return scaled(builder, *((x, y) if isinstance(x, Ref) else (y, x)))


def _divide(builder: Builder, x: Any, y: Any) -> Ref:
    if isinstance(y, Ref):
        return _multiply(builder, x, inverse(builder, y))
    divisor = _constant_of(builder, y, x.shape)
    if (divisor == 0).any():
        raise InvalidNetworkError(f"{builder.path}: it divides by zero.")
    return builder.emit(layers.Scale(builder.quotient(torch.ones_like(divisor), divisor), weight_ulps=1), x)


def _negate(builder: Builder, x: Ref) -> Ref:
    return scaled(builder, x, -1)


def _constant_of(builder: Builder, value: Any, shape: Shape) -> Tensor:
    """A constant factor or summand as it meets one sample."""
    tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    constant = builder.constant(tensor, "constant")
    assert constant is not None
    if constant.dim() > len(shape):
        if constant.shape[0] != 1 and not bool((constant == constant[:1]).all()):
            raise InvalidNetworkError(f"{builder.path}: a constant of shape {tuple(constant.shape)} has a batch axis.")
        constant = constant[0]
    if np.broadcast_shapes(tuple(constant.shape), shape) != shape:
        raise builder.unsupported(f"a constant of shape {tuple(constant.shape)} that enlarges {shape}", "Expand first.")
    return constant.reshape((*(1 for _ in range(len(shape) - constant.dim())), *constant.shape))


def scaled(builder: Builder, x: Ref, factor: Any) -> Ref:
    """A constant times a value."""
    if isinstance(factor, (int, float)) and factor == 1:
        return x
    return builder.emit(layers.Scale(_constant_of(builder, factor, x.shape)), x)


def shifted(builder: Builder, x: Ref, summand: Any, alpha: float = 1) -> Ref:
    """Adding a constant changes nothing about differences."""
    shift = _constant_of(builder, summand, x.shape) * alpha
    return builder.emit(layers.Scale(torch.ones_like(shift), shift), x)


KINDS: tuple[Kind, ...] = (
    Kind(_linear, nn.Linear, lambda m: {"weight": m.weight, "bias": m.bias}, (F.linear,)),
    Kind(_mean, functions=(torch.mean, "mean")),
    Kind(_sum, functions=(torch.sum, "sum")),
    Kind(_add, functions=(operator.add, operator.iadd, torch.add, "add", "add_")),
    Kind(_subtract, functions=(operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_")),
    Kind(_multiply, functions=(operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_")),
    Kind(_divide, functions=(operator.truediv, operator.itruediv, torch.div, torch.true_divide, "div", "div_")),
    Kind(_negate, functions=(operator.neg, torch.neg, "neg")),
)
