"""Functions of all entries along some axes: norms, normalisations by the sample's own statistics, and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.layers import groups
from lipguard.trusted.reading.builder import Builder, Kind, Ref
from lipguard.trusted.reading.composing import first_of_group
from lipguard.trusted.reading.constants import scaled
from lipguard.trusted.reading.moving import moved, reshaped

_MOST_CENTRED = 256  # entries of a group whose mean is subtracted by a matrix
_Axes = int | Sequence[int] | None


def _of_size(builder: Builder, make: Callable[..., tuple[layers.Activation, float]], *args: Any) -> Any:
    """A function of a group, and a number.

    Raises:
        InvalidNetworkError: it has no Lipschitz constant with these parameters.
    """
    try:
        return make(*args)
    except layers.ParameterError as error:
        raise InvalidNetworkError(f"{builder.path}: {error}") from error


def _reduced_axes(builder: Builder, x: Ref, dim: _Axes) -> list[int]:
    """Axes of a sample, as those of a batch."""
    axes = len(x.shape) + 1
    found = sorted({d % axes for d in ((dim,) if isinstance(dim, int) else tuple(dim))}) if dim is not None else [0]
    if 0 in found:
        raise InvalidNetworkError(f"{builder.path}: it reduces the batch axis. Name the axes of a sample.")
    return found


def _gathered(builder: Builder, x: Ref, over: Sequence[int]) -> Ref:
    """Entries along some axes as the last one."""
    kept = [d for d in range(1, len(x.shape) + 1) if d not in over]
    found = moved(builder, x, lambda v: v.permute(0, *kept, *over))
    return reshaped(builder, found, lambda v: v.flatten(1 + len(kept)) if kept else v.reshape(len(v), 1, -1))


def _scattered(builder: Builder, y: Ref, x: Ref, over: Sequence[int]) -> Ref:
    """The way back, to the shape of x."""
    kept = [d for d in range(1, len(x.shape) + 1) if d not in over]
    shape = [x.shape[d - 1] for d in (*kept, *over)]
    order = [[0, *kept, *over].index(d) for d in range(len(x.shape) + 1)]
    found = reshaped(builder, y, lambda v: v.reshape(len(v), *shape))
    return moved(builder, found, lambda v: v.permute(*order))


def _of_group(builder: Builder, x: Ref, make: Callable[..., tuple[layers.Activation, float]], *args: Any) -> Ref:
    """A function of the last axis, and its constant."""
    layer, constant = _of_size(builder, make, x.shape[-1], *args)
    return scaled(builder, builder.emit(layer, x), constant)


def _reduced(builder: Builder, x: Ref, dim: _Axes, keepdim: bool, make: Any, *args: Any) -> Ref:
    """One number for all entries along some axes."""
    over = _reduced_axes(builder, x, dim)
    y = first_of_group(builder, _of_group(builder, _gathered(builder, x, over), make, *args))
    shape = [1 if d + 1 in over else n for d, n in enumerate(x.shape) if keepdim or d + 1 not in over]
    return reshaped(builder, y, lambda v: v.reshape(len(v), *shape))


def _logsumexp(builder: Builder, x: Ref, dim: _Axes, keepdim: bool = False) -> Ref:
    return _reduced(builder, x, dim, keepdim, groups.logsumexp)


def _norm(
    builder: Builder, x: Ref, p: Any = 2.0, dim: _Axes = None, keepdim: bool = False, out: None = None,
    dtype: Any = None,
) -> Ref:  # fmt: skip
    order = {"fro": 2.0, None: 2.0}.get(p, p) if not isinstance(p, (int, float)) else float(p)
    if not isinstance(order, float):
        raise builder.unsupported(f"norm with p={p!r}", "Use a number of 1 or more.")
    return _reduced(builder, x, dim, keepdim, groups.length, order)


def _vector_norm(
    builder: Builder, x: Ref, ord: Any = 2.0, dim: _Axes = None, keepdim: bool = False, out: None = None,
    dtype: Any = None,
) -> Ref:  # fmt: skip
    return _norm(builder, x, ord, dim, keepdim)


def _normalize(
    builder: Builder, input: Ref, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Ref:  # fmt: skip
    if p != 2:
        raise builder.unsupported(f"normalize with p={p:g}", "Use p=2.")
    over = _reduced_axes(builder, input, dim)
    layer, constant = _of_size(builder, groups.direction, math.prod(input.shape[d - 1] for d in over), eps)
    y = builder.emit(layer, _gathered(builder, input, over))
    return _scattered(builder, _divided(builder, y, constant), input, over)


def softmax(
    builder: Builder, x: Ref, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None, *, make: Any = None
) -> Ref:
    """Along an axis of a sample."""
    if dim is None:
        raise builder.unsupported("softmax without dim", "Name the axis.")
    over = _reduced_axes(builder, x, dim)
    y = _of_group(builder, _gathered(builder, x, over), make or groups.softmax)
    return _scattered(builder, y, x, over)


def _log_softmax(builder: Builder, x: Ref, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Ref:
    return softmax(builder, x, dim, make=groups.log_softmax)


def _softmin(builder: Builder, x: Ref, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Ref:
    return softmax(builder, scaled(builder, x, -1), dim)


def _divided(builder: Builder, x: Ref, divisor: float) -> Ref:
    """By the number that makes a function of a group one of constant 1; one rounding."""
    one = torch.ones(1, dtype=torch.float64)
    return builder.emit(layers.Scale(builder.quotient(one, divisor * one), weight_ulps=1), x)


@cache
def _centring(size: int) -> layers.Linear:
    """x - mean: one for every size, for its norm is found once."""
    matrix = torch.eye(size, dtype=torch.float64) - 1 / size
    return layers.Linear(matrix, weight_ulps=2)


def _standardised(builder: Builder, x: Ref, eps: float, *, centred: bool = True) -> Ref:
    """(x - mean) / sqrt(variance + eps) along the last axis; x / sqrt(mean of squares + eps) without `centred`."""
    size = x.shape[-1]
    if centred and size <= _MOST_CENTRED:
        x = builder.emit(_centring(size), x)
    make = groups.standardised if centred and size > _MOST_CENTRED else groups.root_mean_square
    layer, divisor = _of_size(builder, make, size, eps)
    return _divided(builder, builder.emit(layer, x), divisor)


def _affine(builder: Builder, x: Ref, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Ref:
    """A factor and a shift per entry, of weights that have the shape of the last axes once reshaped."""
    scale, shift = builder.constant(weight, "weight"), builder.constant(bias, "bias")
    if scale is None and shift is None:
        return x
    scale = torch.ones(tuple(shape), dtype=torch.float64) if scale is None else scale.reshape(tuple(shape))
    return builder.emit(layers.Scale(scale, None if shift is None else shift.reshape(tuple(shape))), x)


def _layer_norm(
    builder: Builder, input: Ref, normalized_shape: Sequence[int], weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5, *, centred: bool = True,
) -> Ref:  # fmt: skip
    last = tuple(normalized_shape) if not isinstance(normalized_shape, int) else (normalized_shape,)
    if len(last) > len(input.shape):
        raise InvalidNetworkError(f"{builder.path}: it reduces the batch axis. Name the axes of a sample.")
    rest = input.shape[: len(input.shape) - len(last)]
    flat = reshaped(builder, input, lambda v: v.reshape(len(v), *rest, -1) if rest else v.reshape(len(v), 1, -1))
    y = _standardised(builder, flat, eps, centred=centred)
    return _affine(builder, reshaped(builder, y, lambda v: v.reshape(len(v), *input.shape)), weight, bias, last)


def _rms_norm(
    builder: Builder, input: Ref, normalized_shape: Sequence[int], weight: Tensor | None = None,
    eps: float | None = None,
) -> Ref:  # fmt: skip
    """Without eps torch takes the resolution of the format: double precision's is the smallest, and steepest."""
    if eps is None:
        eps = torch.finfo(torch.float64).eps
        builder.note = "RMSNorm without eps, read with that of double precision: 2.2e-16. Set eps for a smaller bound"
    return _layer_norm(builder, input, normalized_shape, weight, None, eps, centred=False)


def _group_norm(
    builder: Builder, input: Ref, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Ref:  # fmt: skip
    apart = reshaped(builder, input, lambda v: v.reshape(len(v), num_groups, -1))
    y = reshaped(builder, _standardised(builder, apart, eps), lambda v: v.reshape(len(v), *input.shape))
    return _affine(builder, y, weight, bias, (input.shape[0], *(1 for _ in input.shape[1:])))


def instance_norm(builder: Builder, x: Ref, weight: Tensor | None, bias: Tensor | None, eps: float) -> Ref:
    """With the statistics of the sample: one group per channel."""
    return _group_norm(builder, x, x.shape[0], weight, bias, eps)


def _functional_instance_norm(
    builder: Builder, input: Ref, running_mean: Any = None, running_var: Any = None, weight: Tensor | None = None,
    bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Ref:  # fmt: skip
    if not use_input_stats:
        raise builder.unsupported("instance_norm with running statistics", "Use the module InstanceNorm2d.")
    return instance_norm(builder, input, weight, bias, eps)


def _held(*names: str) -> Callable[[nn.Module], Mapping[str, Any]]:
    return lambda module: {name: getattr(module, name, None) for name in names}


KINDS: tuple[Kind, ...] = (
    Kind(_logsumexp, functions=(torch.logsumexp, "logsumexp")),
    Kind(_norm, functions=(torch.norm, "norm")),
    Kind(_vector_norm, functions=(torch.linalg.vector_norm, torch.linalg.norm)),
    Kind(_normalize, functions=(F.normalize,)),
    Kind(softmax, nn.Softmax, _held("dim"), (F.softmax, torch.softmax, "softmax")),
    Kind(_log_softmax, nn.LogSoftmax, _held("dim"), (F.log_softmax, torch.log_softmax, "log_softmax")),
    Kind(_softmin, nn.Softmin, _held("dim"), (F.softmin,)),
    Kind(lambda builder, x: softmax(builder, x, -3), nn.Softmax2d),
    Kind(_layer_norm, nn.LayerNorm, _held("normalized_shape", "weight", "bias", "eps"), (F.layer_norm,)),
    Kind(_rms_norm, nn.RMSNorm, _held("normalized_shape", "weight", "eps"), (F.rms_norm,)),
    Kind(_group_norm, nn.GroupNorm, _held("num_groups", "weight", "bias", "eps"), (F.group_norm,)),
    Kind(_functional_instance_norm, functions=(F.instance_norm,)),
)
