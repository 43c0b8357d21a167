"""Sums, products with constants, and matrices."""

from __future__ import annotations

import math
import operator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.reading.builder import Builder, Kind, Ref, Turned, Value
from lipguard.trusted.reading.choices import Choice, sum_with_choice, times_choice
from lipguard.trusted.reading.composing import curved, inverse
from lipguard.trusted.reading.constants import alike, expanded, met, read, scaled, shifted
from lipguard.trusted.reading.curves import powered
from lipguard.trusted.reading.moving import moved, reshaped
from lipguard.trusted.reading.products import multiplied

_MATRIX_ULPS = 16  # of weights that torch, or we, computed: sums of products of a few numbers


def along(builder: Builder, x: Ref, axis: int, matrix: Tensor) -> Ref:
    """A matrix (out, in), each entry of which is rounded a few times, on one axis of a sample."""
    layer = layers.Linear(matrix, weight_ulps=_MATRIX_ULPS)
    if axis == len(x.shape) - 1:
        return builder.emit(layer, x)
    found = builder.emit(layer, moved(builder, x, lambda v: v.transpose(axis + 1, -1)))
    return moved(builder, found, lambda v: v.transpose(axis + 1, -1))


def _total(
    builder: Builder, x: Ref | Turned, dim: Any = None, keepdim: bool = False, axis: Any = None, *, mean: bool = False
) -> Ref | Turned:
    """Wherever the batch axis is: over others, and it may be the first one then."""
    dim = dim if axis is None else axis
    if isinstance(x, Ref) or dim is None:
        return total_of(builder, x.ref if isinstance(x, Turned) else x, dim, keepdim, mean=mean)
    axes = len(x.ref.shape) + 1
    over = [d % axes for d in ((dim,) if isinstance(dim, int) else dim)]
    found = total_of(builder, x.ref, [0 if d == x.axis else d + (d < x.axis) for d in over], keepdim, mean=mean)
    place = x.axis if keepdim else x.axis - sum(d < x.axis for d in over)
    return Turned(found, place) if place else found


def total_of(builder: Builder, x: Ref, dim: Any = None, keepdim: bool = False, *, mean: bool = False) -> Ref:
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


def _variance(
    builder: Builder, x: Ref, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *,
    correction: float | None = None,
) -> Ref:  # fmt: skip
    """The mean of the squares of what differs from the mean; over n - correction."""
    less = float(unbiased) if correction is None else float(correction)
    away = add(builder, x, total_of(builder, x, dim, keepdim=True, mean=True), alpha=-1)
    assert isinstance(away, Ref)
    found = total_of(builder, powered(builder, away, 2), dim, keepdim, mean=True)
    count = math.prod(away.shape) // math.prod(found.shape)
    if not less:
        return found
    if not 0 < less < count:
        raise InvalidNetworkError(f"{builder.path}: a variance of {count} entries with a correction of {less:g}.")
    share = torch.full((1,), count / (count - less), dtype=torch.float64)
    return builder.emit(layers.Scale(share, weight_ulps=1), found)


def _deviation(builder: Builder, x: Ref, *args: Any, **kwargs: Any) -> Ref:
    return curved(builder, _variance(builder, x, *args, **kwargs), layers.root())


def add(builder: Builder, x: Any, y: Any, *, alpha: float = 1) -> Value:
    """x + alpha y, of which one may be a constant."""
    if isinstance(x, Choice) or isinstance(y, Choice):
        return sum_with_choice(builder, x, multiply(builder, y, alpha))
    if not (isinstance(x, Ref) and isinstance(y, Ref)):
        if not isinstance(x, Ref):
            x, y = (scaled(builder, y, alpha), x)
            alpha = 1
        return shifted(builder, x, y, alpha)
    return builder.emit(layers.Add(), *alike(builder, x, scaled(builder, y, alpha)))


def _subtract(builder: Builder, x: Any, y: Any, *, alpha: float = 1) -> Value:
    return add(builder, x, y, alpha=-alpha)


def multiply(builder: Builder, x: Any, y: Any) -> Any:
    """x y, of which both may be constants, or none."""
    if isinstance(x, Choice) or isinstance(y, Choice):
        return times_choice(builder, x, y)
    if isinstance(x, Ref) and isinstance(y, Ref):
        return multiplied(builder, x, y)
    if not (isinstance(x, Ref) or isinstance(y, Ref)):
        return read(builder, x) * read(builder, y)
    return scaled(builder, *((x, y) if isinstance(x, Ref) else (y, x)))


def _divide(builder: Builder, x: Any, y: Any, rounding_mode: str | None = None) -> Value:
    if rounding_mode is not None:
        raise builder.unsupported("division that rounds", "It jumps, and has no Lipschitz constant.")
    if isinstance(y, Ref):
        return multiply(builder, x, inverse(builder, y))  # type: ignore[no-any-return]
    divisor, shape = met(builder, y, x.shape)
    if (divisor == 0).any():
        raise InvalidNetworkError(f"{builder.path}: it divides by zero.")
    factor = builder.quotient(torch.ones_like(divisor), divisor)
    return builder.emit(layers.Scale(factor, weight_ulps=1), expanded(builder, x, shape))


def _negate(builder: Builder, x: Value) -> Value:
    return multiply(builder, x, -1)  # type: ignore[no-any-return]


def _add_product(builder: Builder, x: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Value:
    return add(builder, x, multiply(builder, tensor1, tensor2), alpha=value)


def _add_quotient(builder: Builder, x: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Value:
    if not isinstance(tensor1, Ref) and not isinstance(tensor2, Ref):
        return add(builder, x, read(builder, tensor1) / read(builder, tensor2), alpha=value)
    return add(builder, x, _divide(builder, tensor1, tensor2), alpha=value)


def _lerp(builder: Builder, x: Any, y: Any, weight: Any) -> Value:
    """x + w (y - x)."""
    return add(builder, x, multiply(builder, add(builder, y, x, alpha=-1), weight))


def _cumsum(builder: Builder, x: Ref, dim: int) -> Ref:
    """Every entry and all before it: a triangle of ones."""
    axis = axis_of(builder, x, dim)
    return along(builder, x, axis, torch.ones(x.shape[axis], x.shape[axis], dtype=torch.float64).tril())


def _diff(builder: Builder, x: Ref, n: int = 1, dim: int = -1) -> Ref:
    """Every entry less the one before it."""
    axis = axis_of(builder, x, dim)
    for _ in range(n):
        before, after = (moved(builder, x, lambda v, k=k: v.narrow(axis + 1, k, v.shape[axis + 1] - 1)) for k in (0, 1))  # type: ignore[misc]
        x = builder.emit(layers.Add(), after, scaled(builder, before, -1))
    return x


def axis_of(builder: Builder, x: Ref, dim: int) -> int:
    """An axis of a sample, counted without that of the batch."""
    axes = len(x.shape) + 1
    if dim % axes == 0:
        raise InvalidNetworkError(f"{builder.path}: it acts along the batch axis. Name an axis of a sample.")
    return dim % axes - 1


def _opposite_difference(builder: Builder, x: Any, y: Any, *, alpha: float = 1) -> Value:
    return _subtract(builder, y, x, alpha=alpha)


KINDS: tuple[Kind, ...] = (
    Kind(partial(_total, mean=True), functions=(torch.mean, "mean"), pending=(Turned,)),
    Kind(_total, functions=(torch.sum, "sum"), pending=(Turned,)),
    Kind(add, functions=(operator.add, operator.iadd, torch.add, "add", "add_"), pending=(Choice,)),
    Kind(
        _subtract,
        functions=(operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_", "subtract"),
        pending=(Choice,),
    ),
    Kind(_opposite_difference, functions=(torch.rsub,), pending=(Choice,)),
    Kind(
        multiply,
        functions=(operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply"),
        pending=(Choice,),
    ),
    Kind(_divide, functions=(operator.truediv, operator.itruediv, torch.div, torch.true_divide, "div", "div_")),
    Kind(_negate, functions=(operator.neg, torch.neg, torch.negative, "neg", "neg_"), pending=(Choice,)),
    Kind(_variance, functions=(torch.var, "var")),
    Kind(
        lambda *args, **kwargs: curved(args[0], _variance(*args, **kwargs), layers.root()), functions=(torch.std, "std")
    ),
    Kind(_lerp, functions=(torch.lerp, "lerp", "lerp_")),
    Kind(_cumsum, functions=(torch.cumsum, "cumsum")),
    Kind(_diff, functions=(torch.diff, "diff")),
    Kind(_add_product, functions=(torch.addcmul, "addcmul", "addcmul_")),
    Kind(_add_quotient, functions=(torch.addcdiv, "addcdiv", "addcdiv_")),
)
