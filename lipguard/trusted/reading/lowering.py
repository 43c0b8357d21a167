"""The table of supported operations: one row per kind, each lowered to the layer values of `layers`.

A rule has the signature of the functional form; a module's row says how to call it. A rule receives a `Ref` for every
argument that depends on the network's input, and plain values or constant tensors for the rest.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipguard.errors import ConfigError, InvalidNetworkError, UnsupportedLayerError
from lipguard.trusted import layers
from lipguard.trusted.layers import Layer, Shape
from lipguard.trusted.network.graph import Node

Pair = int | tuple[int, int]
_LEAST_QUOTIENT = 2.0**-1000  # far above the smallest normal number
_MATRIX_ULPS = 16  # of weights that torch, or we, computed: sums of products of a few numbers
# Of what samples show of a registered layer: the relative error that they may have, and roundings beside it. Entries of
# a matrix that is read are counted with all that the samples would not show.
_SAMPLED, _ULPS, _OWN_MATRIX_ULPS = 2.0**-36, 8 * 2.0**-53, 2**18
_SCALES = (2.0**-20, 1.0, 2.0**20, 2.0**40, 2.0**60)  # of samples of an affine layer: the largest see behind a shift
_EXPONENTS = (600, 300, 100, 60, 30, 0)  # of what unit vectors are multiplied by
_COLUMNS = 256  # of a matrix, read at once
# Probe batches have this size: an operation that mixes the batch axis with others shows by its shape.
BATCH = 3


@dataclass(frozen=True)
class Ref:
    """A value that depends on the network's input: the node that makes it, and its shape without the batch axis."""

    index: int
    shape: Shape


@dataclass
class Builder:
    """Collects nodes; rules call `emit`."""

    nodes: list[Node] = field(default_factory=list)
    path: str = "input"
    note: str = ""  # on what is emitted

    def emit(self, layer: Layer, *inputs: Ref) -> Ref:
        """Append a node and return a reference to its value."""
        shape = tuple(layer.forward(*(torch.zeros(1, *ref.shape, dtype=torch.float64) for ref in inputs)).shape[1:])
        return self._append(layer, tuple(ref.index for ref in inputs), shape)

    def input(self, shape: Shape) -> Ref:
        """Append the input node."""
        return self._append(layers.Input(), (), shape)

    def _append(self, layer: Layer, inputs: tuple[int, ...], shape: Shape) -> Ref:
        if 0 in shape:
            raise InvalidNetworkError(f"{self.path}: its output has the shape {shape}, which holds no entries.")
        self.nodes.append(Node(self.path, layer, inputs, shape, self.note))
        return Ref(len(self.nodes) - 1, shape)

    def unsupported(self, kind: str, advice: str) -> UnsupportedLayerError:
        """The error to raise for the operation in hand."""
        return UnsupportedLayerError(self.path, kind, advice)

    def constant(self, value: Tensor | None, what: str) -> Tensor | None:
        """A weight as the float64 value that it holds.

        Raises:
            InvalidNetworkError: it is not finite.
        """
        if value is None:
            return None
        if not isinstance(value, Tensor) or value.is_complex():
            raise self.unsupported(
                f"a {what} of type {type(value).__name__}", "Only real constant weights can be read."
            )
        value = value.detach().to("cpu", torch.float64).clone()
        if not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise InvalidNetworkError(
                f"{self.path}: {bad} of {value.numel()} entries of its {what} are NaN or infinite."
            )
        return value

    def quotient(self, numerator: Tensor, divisor: Tensor) -> Tensor:
        """A weight that is a quotient, with one rounding.

        Raises:
            InvalidNetworkError: it is so large or so small that its rounding would not be a relative one.
        """
        found = numerator / divisor
        lost = ~torch.isfinite(found) | (found.abs() < _LEAST_QUOTIENT) & (numerator != 0)
        if lost.any():
            raise InvalidNetworkError(
                f"{self.path}: {int(lost.sum())} of {lost.numel()} of its factors are quotients beyond what double "
                "precision can hold. Rescale its weights."
            )
        return found


@dataclass
class LiveBuilder(Builder):
    """Keeps weights as they are, with their gradients; shapes are those of an earlier lowering of the same graph."""

    shapes: Sequence[Shape] = ()

    def emit(self, layer: Layer, *inputs: Ref) -> Ref:
        """Append a node, of the known shape."""
        return self._append(layer, tuple(ref.index for ref in inputs), self.shapes[len(self.nodes)])

    def constant(self, value: Tensor | None, what: str) -> Tensor | None:
        """The weight itself; of half precision as the single precision that it fits in."""
        return value.float() if value is not None and value.dtype in (torch.float16, torch.bfloat16) else value

    def quotient(self, numerator: Tensor, divisor: Tensor) -> Tensor:
        """The quotient itself."""
        return numerator / divisor


_OWN_STATISTICS = (
    "It divides by the statistics of the sample itself, and has no global Lipschitz constant.",
    "Use BatchNorm in eval mode, whose statistics are constants.",
)
Rule = Callable[..., Ref | list[Ref]]  # several for an operation that returns a tuple


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Attributes:
        rule: lowers the operation; called as rule(builder, *args, **kwargs).
        module: the module class, if there is one; a subclass counts only while it inherits `forward`.
        arguments: the keyword arguments that a module calls the rule with, besides its input.
        functions: functions and tensor methods of the same meaning (methods by name).
    """

    rule: Rule
    module: type[nn.Module] | None = None
    arguments: Callable[[Any], Mapping[str, Any]] = lambda module: {}
    functions: tuple[Callable[..., Any] | str, ...] = ()


def _attributes(*names: str) -> Callable[[nn.Module], Mapping[str, Any]]:
    """The arguments of a rule that a module holds under the same names."""
    return lambda module: {name: getattr(module, name) for name in names}


def _pair(value: Pair) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else tuple(value) * (2 if len(value) == 1 else 1)
    return int(first), int(second)


def _spatial(builder: Builder, x: Ref, what: str) -> None:
    if len(x.shape) != 3:
        raise InvalidNetworkError(
            f"{builder.path}: {what} expects samples of shape (channels, rows, columns), but got {x.shape}. "
            "input_shape is the shape of one sample, without the batch axis."
        )


def _conv2d(
    builder: Builder, x: Ref, weight: Tensor, bias: Tensor | None = None, stride: Pair = 1, padding: Pair | str = 0,
    dilation: Pair = 1, groups: int = 1,
) -> Ref:  # fmt: skip
    _spatial(builder, x, "a 2-d convolution")
    kernel, spacing = weight.shape[2:], _pair(dilation)
    if padding == "same":  # as torch does it: the odd one goes to the right and the bottom
        total = [d * (k - 1) for d, k in zip(spacing, kernel, strict=True)]
        sides = (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)
    else:
        rows, columns = (0, 0) if padding == "valid" else _pair(padding)  # type: ignore[arg-type]
        sides = (columns, columns, rows, rows)
    layer = layers.Conv2d(
        builder.constant(weight, "weight"),  # type: ignore[arg-type]
        builder.constant(bias, "bias"), _pair(stride), sides, spacing, groups,
    )  # fmt: skip
    return builder.emit(layer, x)


def _conv2d_module(module: nn.Conv2d) -> Mapping[str, Any]:
    return {
        "weight": module.weight, "bias": module.bias, "stride": module.stride, "padding": module.padding,
        "dilation": module.dilation, "groups": module.groups,
    }  # fmt: skip


def _convolution(builder: Builder, x: Ref, padding_mode: str, sides: Sequence[int], **arguments: Any) -> Ref:
    """A module's convolution: other padding than by zeros moves entries first."""
    if padding_mode != "zeros":
        x = _moved(builder, x, lambda v: F.pad(v, tuple(sides), mode=padding_mode))
        arguments["padding"] = 0
    rule = {3: _conv1d, 4: _conv2d, 5: _conv3d}[arguments["weight"].dim()]
    return rule(builder, x, **arguments)


def _convolution_module(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Mapping[str, Any]:
    return {
        "padding_mode": module.padding_mode, "sides": module._reversed_padding_repeated_twice,
        **_conv2d_module(module),  # type: ignore[arg-type]
    }  # fmt: skip


def _conv1d(
    builder: Builder, x: Ref, weight: Tensor, bias: Tensor | None = None, stride: Pair = 1, padding: Pair | str = 0,
    dilation: Pair = 1, groups: int = 1,
) -> Ref:  # fmt: skip
    """A 2-d convolution of images of one row."""
    _axes(builder, x, 2, "a 1-d convolution")
    x = builder.emit(layers.Reshape((x.shape[0], 1, x.shape[1])), x)
    sides = padding if isinstance(padding, str) else (0, _first(padding))
    y = _conv2d(
        builder, x, weight[:, :, None], bias, (1, _first(stride)), sides, (1, _first(dilation)), groups
    )  # fmt: skip
    return builder.emit(layers.Reshape((y.shape[0], y.shape[2])), y)


def _conv3d(
    builder: Builder, x: Ref, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Ref:  # fmt: skip
    """A 2-d convolution whose channels are those of all slices; its weights are zero where a slice is not read."""
    _axes(builder, x, 4, "a 3-d convolution")
    constant = builder.constant(weight, "weight")
    assert constant is not None
    (s, *step), (d, *spacing) = _several(stride, 3), _several(dilation, 3)
    kernel = constant.shape[2:]
    if padding == "same":
        total = d * (kernel[0] - 1)
        before, after, sides = total // 2, total - total // 2, "same"
    else:
        before, *rest = (0, 0, 0) if padding == "valid" else _several(padding, 3)
        after, sides = before, (rest[0], rest[1])  # type: ignore[assignment]
    depth = x.shape[1]
    slices = (depth + before + after - d * (kernel[0] - 1) - 1) // s + 1
    out, per = constant.shape[0], x.shape[0] // groups
    dense = torch.zeros(out, slices, x.shape[0], depth, *kernel[1:], dtype=torch.float64)
    for o in range(out):
        first = o // (out // groups) * per
        for z in range(slices):
            for k in range(kernel[0]):
                read = z * s + k * d - before
                if 0 <= read < depth:
                    dense[o, z, first : first + per, read] = constant[o, :, k]
    flat = builder.emit(layers.Reshape((x.shape[0] * depth, *x.shape[2:])), x)
    wide = None if bias is None else bias.repeat_interleave(slices)
    weights = dense.reshape(out * slices, x.shape[0] * depth, *kernel[1:])
    y = _conv2d(builder, flat, weights, wide, tuple(step), sides, tuple(spacing))  # type: ignore[arg-type]
    return builder.emit(layers.Reshape((out, slices, *y.shape[1:])), y)


def _conv_transpose(
    builder: Builder, x: Ref, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Ref:  # fmt: skip
    """A convolution of the input with zeros between its entries, with the kernel the other way round."""
    axes = weight.dim() - 2
    _axes(builder, x, axes + 1, f"a transposed {axes}-d convolution")
    step, sides, extra, spacing = (_several(v, axes) for v in (stride, padding, output_padding, dilation))

    def spread(v: Tensor) -> Tensor:
        wide = v.new_zeros(*v.shape[:2], *((n - 1) * s + 1 for n, s in zip(v.shape[2:], step, strict=True)))
        wide[(slice(None), slice(None), *(slice(None, None, s) for s in step))] = v
        before = [d * (k - 1) - p for d, k, p in zip(spacing, weight.shape[2:], sides, strict=True)]
        pads = [side for b, e in zip(before, extra, strict=True) for side in (b + e, b)]  # from the last axis, reversed
        return F.pad(wide, pads[::-1])

    constant = builder.constant(weight, "weight")
    assert constant is not None
    turned = constant.flip(*range(2, 2 + axes)).reshape(groups, -1, *constant.shape[1:]).transpose(1, 2)
    rule = {1: _conv1d, 2: _conv2d, 3: _conv3d}[axes]
    moved = _moved(builder, x, spread)
    return rule(builder, moved, turned.reshape(-1, *turned.shape[2:]), bias, 1, 0, dilation, groups)


_conv_transpose_module = _attributes("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")


def _axes(builder: Builder, x: Ref, axes: int, what: str) -> None:
    if len(x.shape) != axes:
        raise InvalidNetworkError(
            f"{builder.path}: {what} expects samples of {axes} axes, the first of channels, but got {x.shape}. "
            "input_shape is the shape of one sample, without the batch axis."
        )


def _first(value: Any) -> int:
    return int(value) if isinstance(value, int) else int(next(iter(value)))


def _linear(builder: Builder, x: Ref, weight: Tensor, bias: Tensor | None = None) -> Ref:
    return builder.emit(
        layers.Linear(builder.constant(weight, "weight"), builder.constant(bias, "bias")),  # type: ignore[arg-type]
        x,
    )


def _batch_norm(
    builder: Builder, x: Ref, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Ref:  # fmt: skip
    if training or running_mean is None or running_var is None:
        raise InvalidNetworkError(
            f"{builder.path}: batch norm that uses the statistics of the batch makes samples depend on each other. "
            "Call model.eval(), and keep track_running_stats=True."
        )
    mean, var = builder.constant(running_mean, "running mean"), builder.constant(running_var, "running variance")
    assert mean is not None
    assert var is not None
    if (var + eps <= 0).any():
        raise InvalidNetworkError(f"{builder.path}: the running variance has negative entries.")
    gain = torch.ones_like(var) if weight is None else builder.constant(weight, "weight")
    shift = torch.zeros_like(var) if bias is None else builder.constant(bias, "bias")
    assert gain is not None
    assert shift is not None
    shape = (-1, *(1 for _ in x.shape[1:]))
    scale = builder.quotient(gain, torch.sqrt(var + eps))  # three roundings, and one for eps as the float that it is
    offset, terms = shift - mean * scale, shift.abs() + (mean * scale).abs()
    return builder.emit(layers.Scale(scale.reshape(shape), offset.reshape(shape), 4, terms.reshape(shape)), x)


def _batch_norm_module(module: nn.BatchNorm2d) -> Mapping[str, Any]:
    return {
        "running_mean": module.running_mean, "running_var": module.running_var, "weight": module.weight,
        "bias": module.bias, "training": module.training, "eps": module.eps,
    }  # fmt: skip


def _instance_norm(
    builder: Builder, x: Ref, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None,
    bias: Tensor | None, training: bool, eps: float,
) -> Ref:  # fmt: skip
    """In eval mode, with running statistics, what batch norm is."""
    if running_mean is None or running_var is None or training:
        raise builder.unsupported("InstanceNorm without running statistics", " ".join(_OWN_STATISTICS))
    return _batch_norm(builder, x, running_mean, running_var, weight, bias, eps=eps)


def _avg_pool(
    builder: Builder, x: Ref, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Ref:  # fmt: skip
    """A depthwise convolution where one does; or one axis after the other, by matrices."""
    axes = len(x.shape) - 1
    kernel, sides = _several(kernel_size, axes), _several(padding, axes)
    step = kernel if not stride else _several(stride, axes)
    geometry = list(zip(x.shape[1:], kernel, step, sides, strict=True))
    cut = ceil_mode and any((n + 2 * p - k) % s for n, k, s, p in geometry)
    if axes == 2 and not cut:
        return _avg_pool2d(builder, x, kernel, step, sides, count_include_pad, divisor_override)
    for axis, (n, k, s, p) in enumerate(geometry, start=1):
        first = torch.arange(_windows(n, k, s, p, 1, ceil_mode)) * s - p
        reads = torch.arange(n)
        matrix = ((reads >= first[:, None]) & (reads < first[:, None] + k)).to(torch.float64)
        if divisor_override is None:  # torch counts the padding on either side, and nothing beyond it
            counted = (first + k).clamp(max=n + p) - first if count_include_pad else matrix.sum(1)
            matrix = matrix / counted[:, None]
        x = _along(builder, x, axis, matrix)
    if divisor_override is None:
        return x
    return builder.emit(layers.Scale(torch.full((1,), 1 / divisor_override, dtype=torch.float64), weight_ulps=1), x)


def _avg_pool2d(
    builder: Builder, x: Ref, kernel: Sequence[int], step: Sequence[int], sides: Sequence[int],
    count_include_pad: bool, divisor_override: int | None,
) -> Ref:  # fmt: skip
    rows, columns = sides
    around = (columns, columns, rows, rows)
    varying = (rows or columns) and not count_include_pad and divisor_override is None
    divisor = 1 if varying else divisor_override or math.prod(kernel)
    weight = torch.full((x.shape[0], 1, *kernel), 1 / divisor, dtype=torch.float64)
    strides = (step[0], step[1])
    y = builder.emit(layers.Conv2d(weight, None, strides, around, (1, 1), x.shape[0], weight_ulps=1), x)
    if not varying:
        return y
    inside = torch.ones(1, 1, *x.shape[1:], dtype=torch.float64)
    count = layers.Conv2d(torch.ones(1, 1, *kernel, dtype=torch.float64), None, strides, around).linear(inside)[0]
    return builder.emit(layers.Scale(1 / count, weight_ulps=1), y)


def _along(builder: Builder, x: Ref, axis: int, matrix: Tensor) -> Ref:
    """A matrix (out, in), each entry of which is rounded a few times, on one axis of a sample."""
    layer = layers.Linear(matrix, weight_ulps=_MATRIX_ULPS)
    if axis == len(x.shape) - 1:
        return builder.emit(layer, x)
    found = builder.emit(layer, _moved(builder, x, lambda v: v.transpose(axis + 1, -1)))
    return _moved(builder, found, lambda v: v.transpose(axis + 1, -1))


_avg_pool_module = _attributes("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def _adaptive_avg_pool(builder: Builder, x: Ref, output_size: Any) -> Ref:
    kernel = _plain_kernel(x, output_size)
    if kernel is not None:
        return _avg_pool(builder, x, kernel)
    for axis, (n, m) in enumerate(zip(x.shape[1:], _adaptive_size(x, output_size), strict=True), start=1):
        windows = _adaptive_windows(n, m)
        matrix = torch.zeros(m, n, dtype=torch.float64)
        for row, window in zip(matrix, windows, strict=True):
            row[window[window < n]] = 1 / float((window < n).sum())
        x = _along(builder, x, axis, matrix)
    return x


def _adaptive_size(x: Ref, output_size: Any) -> list[int]:
    axes = len(x.shape) - 1
    wanted = (output_size,) * axes if isinstance(output_size, int) or output_size is None else tuple(output_size)
    return [n if want is None else want for n, want in zip(x.shape[1:], wanted * (axes // len(wanted)), strict=True)]


def _adaptive_windows(n: int, m: int) -> Tensor:
    """Positions that m windows over n entries hold, shape (m, taps), torch's rule; n where there is none."""
    first, behind = torch.arange(m) * n // m, -(-(torch.arange(m) + 1) * n // m)
    windows = first[:, None] + torch.arange(int((behind - first).max()))
    return torch.where(windows < behind[:, None], windows, n)


def _plain_kernel(x: Ref, output_size: Any) -> tuple[int, ...] | None:
    """Of the plain pooling that an adaptive one is where the output's size divides the input's."""
    sizes = list(zip(x.shape[1:], _adaptive_size(x, output_size), strict=True))
    return None if any(n % m for n, m in sizes) else tuple(n // m for n, m in sizes)


def _pad(builder: Builder, x: Ref, pad: tuple[int, ...], mode: str = "constant", value: float | None = None) -> Ref:
    if mode != "constant":
        return _moved(builder, x, lambda v: F.pad(v, tuple(pad), mode=mode))
    if value not in (None, 0):
        padded = builder.emit(layers.Pad(tuple(pad)), x)
        outside = F.pad(torch.zeros(1, *x.shape, dtype=torch.float64), tuple(pad), value=float(value))
        return builder.emit(layers.Scale(torch.ones(1, dtype=torch.float64), outside[0]), padded)
    if len(pad) > 2 * len(x.shape):
        raise builder.unsupported(f"padding by {tuple(pad)}, which pads the batch axis", "Pad the other axes only.")
    return builder.emit(layers.Pad(tuple(pad)), x)


def _reshaped(builder: Builder, x: Ref, reshape: Callable[[Tensor], Tensor]) -> Ref:
    """Any operation that only renames the axes of one sample."""
    index = torch.arange(BATCH * torch.Size(x.shape).numel()).reshape(BATCH, *x.shape)
    result = reshape(index)
    if result.shape[:1] != (BATCH,) or not torch.equal(result.reshape(BATCH, -1), index.reshape(BATCH, -1)):
        raise InvalidNetworkError(
            f"{builder.path}: reshaping a batch of {x.shape} to {tuple(result.shape)} mixes the batch axis with "
            "others. Keep the first axis as it is."
        )
    shape = tuple(result.shape[1:])
    return x if shape == x.shape else builder.emit(layers.Reshape(shape), x)


def _flatten(builder: Builder, x: Ref, start_dim: int = 0, end_dim: int = -1) -> Ref:
    return _reshaped(builder, x, lambda v: v.flatten(start_dim, end_dim))


def _reshape(builder: Builder, x: Ref, *shape: Any) -> Ref:
    return _reshaped(builder, x, lambda v: v.reshape(*shape))


def _moved(builder: Builder, x: Ref, move: Callable[[Tensor], Tensor]) -> Ref:
    """Any operation that moves, repeats or drops the entries of each sample, or puts zeros between them."""
    n = math.prod(x.shape)
    numbers = torch.arange(1, n + 1, dtype=torch.float64).reshape(x.shape)
    result = move(torch.stack([numbers + b * n for b in range(BATCH)]))
    samples = [torch.where(sample != 0, sample - b * n, 0) for b, sample in enumerate(result)]
    index = samples[0].long() - 1
    alike = len(result) == BATCH and all(torch.equal(sample, samples[0]) for sample in samples)
    if not (alike and bool((index >= -1).all()) and bool((index < n).all())):
        raise InvalidNetworkError(f"{builder.path}: it mixes the batch axis with others. Keep the first axis as it is.")
    if index.shape == x.shape and torch.equal(index.flatten(), torch.arange(n)):
        return x
    return builder.emit(layers.Pick(index), x)


def _moves(name: str) -> Rule:
    """The rule of a tensor method that moves entries."""

    def rule(builder: Builder, x: Ref, *args: Any, **kwargs: Any) -> Ref:
        return _moved(builder, x, lambda v: getattr(v, name)(*args, **kwargs))

    return rule


def _getitem(builder: Builder, x: Ref | list[Ref], key: Any) -> Ref:
    return x[key] if isinstance(x, list) else _moved(builder, x, lambda v: v[key])


def _parts(name: str) -> Rule:
    """The rule of a tensor method that returns several pieces."""

    def rule(builder: Builder, x: Ref, *args: Any, **kwargs: Any) -> list[Ref]:
        count = len(getattr(torch.zeros(BATCH, *x.shape), name)(*args, **kwargs))
        return [_moved(builder, x, lambda v, k=k: getattr(v, name)(*args, **kwargs)[k]) for k in range(count)]  # type: ignore[misc]

    return rule


def _pixel_shuffle(builder: Builder, x: Ref, upscale_factor: int) -> Ref:
    return _moved(builder, x, lambda v: F.pixel_shuffle(v, upscale_factor))


def _pixel_unshuffle(builder: Builder, x: Ref, downscale_factor: int) -> Ref:
    return _moved(builder, x, lambda v: F.pixel_unshuffle(v, downscale_factor))


def _channel_shuffle(builder: Builder, x: Ref, groups: int) -> Ref:
    return _moved(builder, x, lambda v: v.reshape(len(v), groups, -1, *v.shape[2:]).transpose(1, 2).reshape(v.shape))


def _upsample(
    builder: Builder, x: Ref, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> Ref:  # fmt: skip
    def run(v: Tensor) -> Tensor:
        return F.interpolate(v, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)

    if mode in ("nearest", "nearest-exact"):
        return _moved(builder, x, run)
    shape = run(torch.zeros(1, *x.shape, dtype=torch.float64)).shape[1:]
    if mode == "area":
        return _adaptive_avg_pool(builder, x, shape[1:])
    factors = _several_factors(scale_factor, len(x.shape) - 1)
    plain = mode if mode == "bicubic" else "bilinear"
    for axis in range(1, len(x.shape)):  # by what the interpolation makes of unit vectors along one axis
        n, m = x.shape[axis], shape[axis]
        kept = factors is not None and not recompute_scale_factor
        sizes = {"scale_factor": (factors[axis - 1], 1.0)} if kept and factors else {"size": (m, 2)}
        # Two columns, for of one torch takes the rows wrongly where it is to smooth.
        units = torch.eye(n, dtype=torch.float64).reshape(n, 1, n, 1).repeat(1, 1, 1, 2)
        weight = F.interpolate(units, mode=plain, align_corners=align_corners, antialias=antialias, **sizes)
        x = _along(builder, x, axis, weight[:, 0, :, 0].T.contiguous())
    return x


def _several_factors(scale_factor: Any, axes: int) -> tuple[float, ...] | None:
    if scale_factor is None:
        return None
    return (float(scale_factor),) * axes if isinstance(scale_factor, (int, float)) else tuple(map(float, scale_factor))


_upsample_module = _attributes("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")


def _cat(builder: Builder, tensors: Sequence[Any], dim: int = 0, axis: int | None = None) -> Ref:
    dim = dim if axis is None else axis
    if not all(isinstance(x, Ref) for x in tensors):
        raise builder.unsupported("concatenation with a constant", "Pad, or use the bias of the layer behind it.")
    axes = len(tensors[0].shape) + 1
    dim = dim + axes if dim < 0 else dim
    if dim == 0:
        raise InvalidNetworkError(f"{builder.path}: it concatenates along the batch axis.")
    if len(tensors) == 1:
        return tensors[0]  # type: ignore[no-any-return]
    lengths = [x.shape[dim - 1] for x in tensors]
    placed = []
    for k, x in enumerate(tensors):
        before, after = sum(lengths[:k]), sum(lengths[k + 1 :])
        placed.append(builder.emit(layers.Pad((*(0 for _ in range(2 * (axes - 1 - dim))), before, after)), x))
    return builder.emit(layers.Add(), *placed)


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
    gathered = _moved(builder, x, lambda v: v.permute(0, *kept, *over).flatten(1 + len(kept)))
    if not kept:
        gathered = _reshaped(builder, gathered, lambda v: v[:, None])
    total = builder.emit(layers.Linear(torch.ones(1, count, dtype=torch.float64)), gathered)
    if mean:
        total = builder.emit(layers.Scale(torch.full((1,), 1 / count, dtype=torch.float64), weight_ulps=1), total)
    shape = [1 if d in over else x.shape[d - 1] for d in range(1, axes) if keepdim or d not in over]
    return _reshaped(builder, total, lambda v: v.reshape(len(v), *shape))


def _identity(builder: Builder, x: Ref, *_: Any, **__: Any) -> Ref:
    return x


def _dropout(builder: Builder, x: Ref, p: float = 0.5, training: bool = True, inplace: bool = False) -> Ref:
    if training and p > 0:
        raise InvalidNetworkError(f"{builder.path}: dropout in training mode is random. Call model.eval().")
    return x


def _add(builder: Builder, x: Any, y: Any, *, alpha: float = 1) -> Ref:
    if not (isinstance(x, Ref) and isinstance(y, Ref)):
        if not isinstance(x, Ref):
            x, y = (_scaled(builder, y, alpha), x)
            alpha = 1
        return _shifted(builder, x, y, alpha)
    if x.shape != y.shape:
        raise builder.unsupported(f"adding shapes {x.shape} and {y.shape}", "Add equal shapes.")
    return builder.emit(layers.Add(), x, _scaled(builder, y, alpha))


def _subtract(builder: Builder, x: Any, y: Any, *, alpha: float = 1) -> Ref:
    return _add(builder, x, y, alpha=-alpha)


def _multiply(builder: Builder, x: Any, y: Any) -> Ref:
    if isinstance(x, Ref) and isinstance(y, Ref):
        raise builder.unsupported(
            "the product of two values that depend on the input",
            "It has no global Lipschitz constant. Scale by a constant, or add.",
        )
    return _scaled(builder, *((x, y) if isinstance(x, Ref) else (y, x)))


def _divide(builder: Builder, x: Any, y: Any) -> Ref:
    if isinstance(y, Ref):
        raise builder.unsupported(
            "division by a value that depends on the input", "It has no global Lipschitz constant."
        )
    divisor = _constant_of(builder, y, x.shape)
    if (divisor == 0).any():
        raise InvalidNetworkError(f"{builder.path}: it divides by zero.")
    return builder.emit(layers.Scale(builder.quotient(torch.ones_like(divisor), divisor), weight_ulps=1), x)


def _negate(builder: Builder, x: Ref) -> Ref:
    return _scaled(builder, x, -1)


def _constant_of(builder: Builder, value: Any, shape: Shape) -> Tensor:
    """A constant factor or summand as it meets one sample."""
    tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    constant = builder.constant(tensor, "constant")
    assert constant is not None
    if constant.dim() > len(shape):
        if constant.shape[0] != 1:
            raise InvalidNetworkError(f"{builder.path}: a constant of shape {tuple(constant.shape)} has a batch axis.")
        constant = constant[0]
    if np.broadcast_shapes(tuple(constant.shape), shape) != shape:
        raise builder.unsupported(f"a constant of shape {tuple(constant.shape)} that enlarges {shape}", "Expand first.")
    return constant.reshape(*(1 for _ in range(len(shape) - constant.dim())), *constant.shape)


def _scaled(builder: Builder, x: Ref, factor: Any) -> Ref:
    if isinstance(factor, (int, float)) and factor == 1:
        return x
    return builder.emit(layers.Scale(_constant_of(builder, factor, x.shape)), x)


def _shifted(builder: Builder, x: Ref, summand: Any, alpha: float) -> Ref:
    """Adding a constant changes nothing about differences."""
    shift = _constant_of(builder, summand, x.shape) * alpha
    return builder.emit(layers.Scale(torch.ones_like(shift), shift), x)


def _activation(make: Callable[..., layers.Activation], *names: str) -> Rule:
    """The rule of an element-wise function: `make` of its parameters, in the order of `names`."""

    def rule(builder: Builder, x: Ref, *args: Any, inplace: bool = False, **kwargs: Any) -> Ref:
        named = dict(zip(names, args, strict=False)) | kwargs
        unknown = set(named) - set(names)
        if unknown or len(args) > len(names):
            raise TypeError(f"unexpected arguments {sorted(unknown) or args}")
        return builder.emit(_made(builder, make, **named), x)

    return rule


def _made(builder: Builder, make: Callable[..., layers.Activation], **parameters: Any) -> layers.Activation:
    """An activation.

    Raises:
        InvalidNetworkError: it has no Lipschitz constant with these parameters.
    """
    try:
        return make(**parameters)
    except layers.ParameterError as error:
        raise InvalidNetworkError(f"{builder.path}: {error}") from error


def _prelu(builder: Builder, x: Ref, weight: Tensor) -> Ref:
    """(1 + w) / 2 x + (1 - w) / 2 |x|: the same constraint as slopes between w and 1, for a slope per channel."""
    slope = builder.constant(weight, "weight")
    assert slope is not None
    if slope.numel() == 1:
        return builder.emit(_made(builder, layers.leaky_relu, negative_slope=slope), x)
    shape = (-1, *(1 for _ in x.shape[1:]))
    size = builder.emit(layers.absolute(), x)
    linear, bent = ((1 + slope) / 2).reshape(shape), ((1 - slope) / 2).reshape(shape)
    return builder.emit(
        layers.Add(), builder.emit(layers.Scale(linear, weight_ulps=1), x),
        builder.emit(layers.Scale(bent, weight_ulps=1), size),
    )  # fmt: skip


def _max_pool(
    builder: Builder, x: Ref, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Ref:  # fmt: skip
    """Along one axis after the other; what is outside of the image never counts."""
    axes = len(x.shape) - 1
    if return_indices:
        raise builder.unsupported("max pooling that returns indices", "Use return_indices=False.")
    kernel, sides, spacing = (_several(value, axes) for value in (kernel_size, padding, dilation))
    step = kernel if not stride else _several(stride, axes)
    for axis, (k, s, p, d) in enumerate(zip(kernel, step, sides, spacing, strict=True), start=1):
        n = x.shape[axis]
        count = _windows(n, k, s, p, d, ceil_mode)
        x = _largest(builder, x, axis, torch.arange(count)[:, None] * s + torch.arange(k) * d - p)
    return x


def _windows(n: int, k: int, s: int, p: int, d: int, ceil_mode: bool) -> int:
    """How many windows a pooling has along an axis of n entries: torch's rule."""
    free = n + 2 * p - d * (k - 1) - 1
    count = (-(-free // s) if ceil_mode else free // s) + 1
    return count - 1 if ceil_mode and (count - 1) * s >= n + p else count  # none begins in the padding


def _largest(builder: Builder, x: Ref, axis: int, windows: Tensor) -> Ref:
    """The largest entry of every window along an axis: max(a, b) = a + relu(b - a), by halves.

    For slopes in [0, 1] with the multiplier 1 this implies that the largest is no longer than the window, the group
    constraint, and it keeps what that forgets: the largest is a mean of the entries.

    Args:
        builder: of the network.
        x: of any shape.
        axis: of a sample.
        windows: positions along it, shape (windows, taps); those outside of [0, n) do not count.
    """
    inside = (windows >= 0) & (windows < x.shape[axis])
    present = windows.gather(1, inside.long().argmax(1, keepdim=True))
    windows = torch.where(inside, windows, present)  # another entry of the window, which changes nothing
    views = [_taken(builder, x, axis, column) for column in windows.unbind(1)]
    while len(views) > 1:
        larger = [_larger(builder, a, b) for a, b in zip(views[::2], views[1::2], strict=False)]
        views = larger + views[2 * len(larger) :]
    return views[0]


def _taken(builder: Builder, x: Ref, axis: int, positions: Tensor) -> Ref:
    """Some positions of an axis: a strided convolution of one tap, which can be tiled, where there is one."""
    first, last, n = int(positions[0]), int(positions[-1]), x.shape[axis]
    step = int(positions[1]) - first if len(positions) > 1 else 1
    regular = step > 0 and torch.equal(positions, torch.arange(first, last + 1, step))
    if len(x.shape) != 3 or not regular or len(positions) == n:
        return _moved(builder, x, lambda v: v.index_select(axis + 1, positions))
    one, crop = torch.ones(x.shape[0], 1, 1, 1, dtype=torch.float64), (-first, last + 1 - n)
    sides, steps = ((0, 0, *crop), (step, 1)) if axis == 1 else ((*crop, 0, 0), (1, step))
    return builder.emit(layers.Conv2d(one, None, steps, sides, (1, 1), x.shape[0]), x)


def _larger(builder: Builder, a: Ref, b: Ref) -> Ref:
    excess = builder.emit(layers.relu(), builder.emit(layers.Add(), b, _scaled(builder, a, -1)))
    return builder.emit(layers.Add(), a, excess)


_max_pool_module = _attributes("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")


def _adaptive_max_pool(builder: Builder, x: Ref, output_size: Any, return_indices: bool = False) -> Ref:
    kernel = _plain_kernel(x, output_size)
    if kernel is not None or return_indices:
        return _max_pool(builder, x, kernel, return_indices=return_indices)
    for axis, m in enumerate(_adaptive_size(x, output_size), start=1):
        x = _largest(builder, x, axis, _adaptive_windows(x.shape[axis], m))
    return x


def _clamp(builder: Builder, x: Ref, min: Any = None, max: Any = None) -> Ref:
    low, high = (given if value is None else value for value, given in ((min, -math.inf), (max, math.inf)))
    return builder.emit(_made(builder, layers.clamp, low=low, high=high), x)


def _several(value: Any, count: int) -> tuple[int, ...]:
    return (int(value),) * count if isinstance(value, int) else tuple(int(v) for v in value)


KINDS: tuple[Kind, ...] = (
    *(Kind(_convolution, module, _convolution_module) for module in (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
    Kind(_conv1d, functions=(F.conv1d, torch.conv1d)),
    Kind(_conv2d, functions=(F.conv2d, torch.conv2d)),
    Kind(_conv3d, functions=(F.conv3d, torch.conv3d)),
    Kind(_conv_transpose, nn.ConvTranspose1d, _conv_transpose_module, (F.conv_transpose1d,)),
    Kind(_conv_transpose, nn.ConvTranspose2d, _conv_transpose_module, (F.conv_transpose2d,)),
    Kind(_conv_transpose, nn.ConvTranspose3d, _conv_transpose_module, (F.conv_transpose3d,)),
    Kind(_linear, nn.Linear, lambda m: {"weight": m.weight, "bias": m.bias}, (F.linear,)),
    Kind(_batch_norm, nn.BatchNorm1d, _batch_norm_module, (F.batch_norm,)),
    *(Kind(_batch_norm, module, _batch_norm_module) for module in (nn.BatchNorm2d, nn.BatchNorm3d)),
    *(
        Kind(_instance_norm, module, _batch_norm_module)
        for module in (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    ),
    *(
        Kind(_avg_pool, module, _avg_pool_module, (function,))
        for module, function in ((nn.AvgPool2d, F.avg_pool2d), (nn.AvgPool3d, F.avg_pool3d))
    ),
    Kind(
        _avg_pool,
        nn.AvgPool1d,
        _attributes("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
        (F.avg_pool1d,),
    ),
    *(
        Kind(_adaptive_avg_pool, module, _attributes("output_size"), (function,))
        for module, function in (
            (nn.AdaptiveAvgPool1d, F.adaptive_avg_pool1d),
            (nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d),
            (nn.AdaptiveAvgPool3d, F.adaptive_avg_pool3d),
        )
    ),
    *(
        Kind(_pad, module, lambda m: {"pad": m.padding}, functions)
        for module, functions in ((nn.ZeroPad1d, (F.pad,)), (nn.ZeroPad2d, ()), (nn.ZeroPad3d, ()))
    ),
    *(
        Kind(_pad, module, lambda m: {"pad": m.padding, "value": m.value})
        for module in (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
    ),
    *(
        Kind(_pad, module, lambda m, mode=mode: {"pad": m.padding, "mode": mode})  # type: ignore[misc]
        for mode, modules in (
            ("reflect", (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d)),
            ("replicate", (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d)),
            ("circular", (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d)),
        )
        for module in modules
    ),
    Kind(_pixel_shuffle, nn.PixelShuffle, lambda m: {"upscale_factor": m.upscale_factor}, (F.pixel_shuffle,)),
    Kind(_pixel_unshuffle, nn.PixelUnshuffle, lambda m: {"downscale_factor": m.downscale_factor}, (F.pixel_unshuffle,)),
    Kind(_channel_shuffle, nn.ChannelShuffle, lambda m: {"groups": m.groups}, (F.channel_shuffle,)),
    *(Kind(_upsample, module, _upsample_module) for module in (nn.Upsample, nn.UpsamplingNearest2d)),
    Kind(_upsample, nn.UpsamplingBilinear2d, _upsample_module, (F.interpolate,)),
    Kind(_cat, functions=(torch.cat, torch.concat)),
    Kind(_mean, functions=(torch.mean, "mean")),
    Kind(_sum, functions=(torch.sum, "sum")),
    Kind(_getitem, functions=(operator.getitem,)),
    *(
        Kind(_moves(name), functions=(*(getattr(torch, name) for _ in range(hasattr(torch, name))), name))
        for name in ("permute", "transpose", "flip", "roll", "narrow", "repeat_interleave", "swapaxes", "movedim")
    ),
    *(Kind(_parts(name), functions=(getattr(torch, name), name)) for name in ("chunk", "split", "unbind")),
    Kind(
        lambda builder, x, *args, **kwargs: _reshaped(builder, x, lambda v: v.squeeze(*args, **kwargs)),
        functions=(torch.squeeze, "squeeze"),
    ),
    Kind(
        lambda builder, x, *args, **kwargs: _reshaped(builder, x, lambda v: v.unsqueeze(*args, **kwargs)),
        functions=(torch.unsqueeze, "unsqueeze"),
    ),
    Kind(
        lambda builder, x, dim, sizes: _reshaped(builder, x, lambda v: torch.unflatten(v, dim, sizes)),
        nn.Unflatten,
        lambda m: {"dim": m.dim, "sizes": m.unflattened_size},
        ("unflatten",),
    ),
    *(Kind(_max_pool, module, _max_pool_module) for module in (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)),
    Kind(_max_pool, functions=(F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d)),
    *(
        Kind(_adaptive_max_pool, module, _attributes("output_size", "return_indices"), (function,))
        for module, function in (
            (nn.AdaptiveMaxPool1d, F.adaptive_max_pool1d),
            (nn.AdaptiveMaxPool2d, F.adaptive_max_pool2d),
            (nn.AdaptiveMaxPool3d, F.adaptive_max_pool3d),
        )
    ),
    Kind(_clamp, functions=(torch.clamp, torch.clip, "clamp", "clamp_", "clip")),
    Kind(_flatten, nn.Flatten, lambda m: {"start_dim": m.start_dim, "end_dim": m.end_dim}, (torch.flatten, "flatten")),
    Kind(_reshape, functions=(torch.reshape, "reshape", "view")),
    Kind(_identity, nn.Identity, functions=("contiguous", "clone")),
    *(
        Kind(_dropout, module, lambda m: {"p": m.p, "training": m.training}, functions)
        for module, functions in (
            (nn.Dropout, (F.dropout,)),
            (nn.Dropout1d, (F.dropout1d,)),
            (nn.Dropout2d, (F.dropout2d,)),
            (nn.Dropout3d, (F.dropout3d,)),
            (nn.AlphaDropout, (F.alpha_dropout,)),
        )
    ),
    Kind(_add, functions=(operator.add, operator.iadd, torch.add, "add", "add_")),
    Kind(_subtract, functions=(operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_")),
    Kind(_multiply, functions=(operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_")),
    Kind(_divide, functions=(operator.truediv, operator.itruediv, torch.div, torch.true_divide, "div", "div_")),
    Kind(_negate, functions=(operator.neg, torch.neg, "neg")),
    Kind(_prelu, nn.PReLU, lambda m: {"weight": m.weight}, (F.prelu,)),
    Kind(_activation(layers.absolute), functions=(torch.abs, operator.abs, "abs")),
    Kind(_activation(layers.gelu, "approximate"), nn.GELU, lambda m: {"approximate": m.approximate}, (F.gelu,)),
    Kind(_activation(layers.silu), nn.SiLU, functions=(F.silu,)),
    Kind(_activation(layers.mish), nn.Mish, functions=(F.mish,)),
    Kind(_activation(layers.hardswish), nn.Hardswish, functions=(F.hardswish,)),
    Kind(_activation(layers.hardsigmoid), nn.Hardsigmoid, functions=(F.hardsigmoid,)),
    Kind(
        _activation(layers.hardtanh, "min_val", "max_val"),
        nn.Hardtanh,
        lambda m: {"min_val": m.min_val, "max_val": m.max_val},
        (F.hardtanh,),
    ),
    Kind(
        _activation(layers.relu6, "min_val", "max_val"),
        nn.ReLU6,
        lambda m: {"min_val": m.min_val, "max_val": m.max_val},
    ),
    Kind(_activation(layers.relu6), functions=(F.relu6,)),
    Kind(
        _activation(layers.softplus, "beta", "threshold"),
        nn.Softplus,
        lambda m: {"beta": m.beta, "threshold": m.threshold},
        (F.softplus,),
    ),
    Kind(_activation(layers.softsign), nn.Softsign, functions=(F.softsign,)),
    Kind(_activation(layers.log_sigmoid), nn.LogSigmoid, functions=(F.logsigmoid,)),
    Kind(_activation(layers.tanhshrink), nn.Tanhshrink, functions=(F.tanhshrink,)),
    Kind(_activation(layers.softshrink, "lambd"), nn.Softshrink, lambda m: {"lambd": m.lambd}, (F.softshrink,)),
    Kind(_activation(layers.selu), nn.SELU, functions=(F.selu, torch.selu)),
    Kind(_activation(layers.celu, "alpha"), nn.CELU, lambda m: {"alpha": m.alpha}, (F.celu,)),
    Kind(_activation(layers.relu), nn.ReLU, functions=(F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")),
    Kind(
        _activation(layers.leaky_relu, "negative_slope"),
        nn.LeakyReLU,
        lambda m: {"negative_slope": m.negative_slope},
        (F.leaky_relu,),
    ),
    Kind(_activation(layers.tanh), nn.Tanh, functions=(torch.tanh, F.tanh, "tanh", "tanh_")),
    Kind(_activation(layers.sigmoid), nn.Sigmoid, functions=(torch.sigmoid, F.sigmoid, "sigmoid", "sigmoid_")),
    Kind(_activation(layers.elu, "alpha"), nn.ELU, lambda m: {"alpha": m.alpha}, (F.elu,)),
)

_PRODUCT = (
    "It is a product of two values that depend on the input, and has no global Lipschitz constant.",
    "Use an element-wise activation.",
)
_RECURRENT = ("It is recurrent; only feed-forward networks are read.", "Unroll it with Linear layers and Tanh.")
_JUMPS = ("It jumps, and has no Lipschitz constant.", "Use a continuous activation.")
_SOFTMAX = ("A bound is one of the logits.", "Certify the network without it; the loss may apply it.")
# Why a module, or a function, that is not in the table cannot be, and what to use instead.
REFUSED: dict[Any, tuple[str, str]] = {
    **dict.fromkeys((nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, F.layer_norm, F.group_norm, F.instance_norm,
                     F.normalize), _OWN_STATISTICS),
    **dict.fromkeys((nn.GLU, nn.Bilinear, nn.MultiheadAttention, nn.TransformerEncoderLayer, F.glu, torch.matmul,
                     operator.matmul, F.scaled_dot_product_attention, "matmul"), _PRODUCT),
    **dict.fromkeys((nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell), _RECURRENT),
    **dict.fromkeys((nn.Hardshrink, nn.Threshold, F.hardshrink, F.threshold, torch.sign, torch.round), _JUMPS),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d, F.softmax, F.log_softmax, torch.softmax,
                     torch.log_softmax, "softmax", "log_softmax"), _SOFTMAX),
    **dict.fromkeys((torch.exp, torch.square, torch.pow, "exp", "pow", operator.pow),
                    ("Its slope grows without bound.", "Use an activation of bounded slope.")),
}  # fmt: skip

_REGISTERED: set[type[nn.Module]] = set()  # by users
_MODULES = {kind.module: kind for kind in KINDS if kind.module is not None}
_FUNCTIONS = {function: kind for kind in KINDS for function in kind.functions}


def module_kind(module: nn.Module) -> Kind | None:
    """The row of a module: its class, or the base class whose `forward` it inherits unchanged."""
    for cls in type(module).__mro__:
        if cls in _MODULES:
            kept = type(module).forward is cls.forward
            if issubclass(cls, nn.Conv2d):
                kept = kept and type(module)._conv_forward is cls._conv_forward  # type: ignore[attr-defined]
            return _MODULES[cls] if kept else None
    return None


def register(
    module: type[nn.Module], *, slope: tuple[float, float] | None = None, group: int | None = None, affine: bool = False
) -> None:
    """Make layers of your own known. Say exactly one thing about them:

    Args:
        module: the class; its subclasses count as long as they inherit `forward`.
        slope: element-wise, with every difference quotient in this closed interval.
        group: of channels (axis 1), so many neighbours at a time: f(u) - f(v) is nowhere longer than u - v, as for
            sorting (MaxMin has groups of 2) and Householder reflections. The shape stays as it is.
        affine: f(x) = A x + c, for each sample. A is read off by unit vectors: n forward passes, and n m numbers.

    What is said is taken on trust, and tried on samples whenever such a layer is met; a bound is wrong if it is wrong.

    Raises:
        ConfigError: not exactly one property is given, or it makes no sense, or the class is known already.
    """
    given = [slope is not None, group is not None, affine]
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        raise ConfigError(f"Expected a subclass of torch.nn.Module, but got {module!r}.")
    if sum(given) != 1:
        raise ConfigError("Expected exactly one of slope=(low, high), group=n and affine=True.")
    if module in _MODULES and module not in _REGISTERED:
        raise ConfigError(f"{module.__name__} is known already.")
    if slope is not None:
        low, high = slope
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ConfigError(f"Expected slope=(low, high) with finite numbers in order, but got {slope!r}.")
        rule = partial(_own_activation, slope=(float(low), float(high)))
    elif group is not None:
        if isinstance(group, bool) or not isinstance(group, int) or group < 1:
            raise ConfigError(f"Expected group to be a positive integer, but got {group!r}.")
        rule = partial(_own_group, size=group)
    else:
        rule = partial(_own_affine)
    _REGISTERED.add(module)
    _MODULES[module] = Kind(rule, module, lambda m: {"module": m})


def _own_activation(builder: Builder, x: Ref, module: nn.Module, slope: tuple[float, float]) -> Ref:
    module, name = copy.deepcopy(module).double().eval(), type(module).__name__
    u, v = _samples(x.shape)
    with torch.no_grad():
        fu, fv = _called(builder, module, u), _called(builder, module, v)
        mixed = torch.rand(u.shape, generator=torch.Generator().manual_seed(1)) < 0.5
        moved = _called(builder, module, torch.where(mixed, u, v))
    if fu.shape != u.shape:
        raise _disproved(builder, name, "element-wise")
    a, b, lost = u - v, fu - fv, _ULPS * (fu.abs() + fv.abs())
    ends = torch.stack([slope[0] * a, slope[1] * a])
    # What rounding of the pair moves, and of the answers; a slope is tried by what is left.
    slack = _SAMPLED * ends.abs().amax(0) + max(map(abs, slope)) * _ULPS * (u.abs() + v.abs()) + lost
    within = (b >= ends.amin(0) - slack) & (b <= ends.amax(0) + slack)
    alone = (moved - torch.where(mixed, fu, fv)).abs() <= _SAMPLED * b.abs() + lost
    if not bool((within & alone).all()):
        raise _disproved(builder, name, f"element-wise with slopes in {slope}")
    note = f"{name} as registered: element-wise, slopes in [{slope[0]:g}, {slope[1]:g}]"
    return builder.emit(layers.Activation(name, *slope, module, note=note), x)


def _own_group(builder: Builder, x: Ref, module: nn.Module, size: int) -> Ref:
    module, name = copy.deepcopy(module).double().eval(), type(module).__name__
    if x.shape[0] % size:
        raise InvalidNetworkError(f"{builder.path}: {x.shape[0]} channels do not fall into groups of {size}.")

    def apart(v: Tensor) -> Tensor:  # the group as the last axis
        return v.reshape(len(v), -1, size, *v.shape[2:]).movedim(2, -1)

    u, v = _samples(x.shape)
    here = torch.rand(apart(u).shape[:-1], generator=torch.Generator().manual_seed(1)) < 0.5
    back = apart(torch.arange(math.prod(x.shape)).reshape(1, *x.shape)).flatten().argsort()
    kept = here[..., None].expand_as(apart(u)).flatten(1)[:, back].reshape(u.shape)
    with torch.no_grad():
        fu = _called(builder, module, u)
        for other in (v, torch.where(kept, u, v)):  # of which some groups stay as they are
            fv = _called(builder, module, other)
            if fv.shape != u.shape:
                raise _disproved(builder, name, f"no longer than its input in groups of {size}")
            question, answer = apart(u - other).norm(dim=-1), apart(fu - fv).norm(dim=-1)
            lost = _ULPS * sum(apart(value).norm(dim=-1) for value in (u, other, fu, fv))
            if not bool((answer <= question * (1 + _SAMPLED) + lost).all()):
                raise _disproved(builder, name, f"no longer than its input in groups of {size}")
    gathered = _moved(builder, x, apart)
    whole = partial(_in_groups, module=module, shape=x.shape, size=size)
    note = f"{name} as registered: no longer than its input in groups of {size}"
    found = builder.emit(layers.Activation(name, -1.0, 1.0, whole, size, note=note), gathered)
    return _moved(builder, found, lambda w: w.movedim(-1, 2).reshape(len(w), *x.shape))


def _in_groups(x: Tensor, module: nn.Module, shape: Shape, size: int) -> Tensor:
    answer: Tensor = module(x.movedim(-1, 2).reshape(len(x), *shape))
    return answer.reshape(len(x), -1, size, *shape[1:]).movedim(2, -1)


def _own_affine(builder: Builder, x: Ref, module: nn.Module) -> Ref:
    """f(x) = A x + c: A is read, tried, and counted with the error that the trial allows."""
    module, name = copy.deepcopy(module).double().eval(), type(module).__name__
    with torch.no_grad():
        shift = _called(builder, module, torch.zeros(1, *x.shape, dtype=torch.float64))[0]
        constant = builder.constant(shift.flatten(), "shift")
        matrix = _matrix(builder, module, x.shape, shift)
        if matrix.isfinite().all() and not _is_affine(builder, module, x.shape, matrix):
            raise _disproved(builder, name, "affine")
    weight = builder.constant(matrix, "matrix")
    assert weight is not None
    flat = _reshaped(builder, x, lambda v: v.flatten(1))
    note = f"{name} as registered: affine, with the matrix that it computes"
    y = builder.emit(layers.Linear(weight, constant, _OWN_MATRIX_ULPS, note), flat)
    return _reshaped(builder, y, lambda v: v.reshape(len(v), *shift.shape))


def _matrix(builder: Builder, module: nn.Module, shape: Shape, shift: Tensor) -> Tensor:
    """A of f(x) = A x + c as a module computes it, shape (m, n), without the digits that c takes.

    From unit vectors times a power of two, as large as may be, beside which the shift is nothing; or from derivatives,
    which know nothing of a shift, where they are what the unit vectors show.
    """
    n, large = math.prod(shape), math.inf
    units = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
    for exponent in _EXPONENTS:
        large = 2.0**exponent
        answers = torch.cat([module(large * part) for part in torch.split(units, _COLUMNS)]).double().flatten(1).T
        if bool(answers.isfinite().all()):
            break
    else:
        raise InvalidNetworkError(
            f"{builder.path}: {type(module).__name__} was registered as affine, and is not finite for unit vectors. "
            "Mend it, or register what holds."
        )
    constant = shift.flatten()[:, None]
    read = (answers - constant) / large  # column by column
    lost = _ULPS * (answers.abs() + constant.abs()) / large
    derived = _derivative(module, shape, shift.numel())
    if derived is not None and bool(((derived - read).abs() <= _SAMPLED * read.abs() + lost).all()):
        return derived
    largest = read.abs().amax(1, keepdim=True)
    if not bool(((lost <= _SAMPLED * largest) | (largest == 0)).all()):
        raise InvalidNetworkError(
            f"{builder.path}: the matrix of {type(module).__name__} cannot be read behind a shift of up to "
            f"{float(shift.abs().max()):.3g}. Add the shift in a layer of its own."
        )
    return read


def _derivative(module: nn.Module, shape: Shape, outputs: int) -> Tensor | None:
    """The derivative at zero by automatic differentiation, shape (outputs, n); None where there is none."""
    rows = []
    try:
        for part in torch.split(torch.eye(outputs, dtype=torch.float64), _COLUMNS):
            with torch.enable_grad():
                x = torch.zeros(len(part), *shape, dtype=torch.float64, requires_grad=True)
                y = module(x)
                rows.append(torch.autograd.grad(y, x, part.reshape(y.shape))[0].flatten(1))
    except Exception:  # a backward pass of the user's own may raise anything
        return None
    return torch.cat(rows)


def _is_affine(builder: Builder, module: nn.Module, shape: Shape, matrix: Tensor) -> bool:
    """Whether differences of samples are those of the matrix, near and far, but for the rounding of the answers."""
    sizes = matrix.abs()
    for scale in _SCALES:
        u, v = (scale * w for w in _samples(shape))
        fu, fv = _called(builder, module, u), _called(builder, module, v)
        a = (u - v).flatten(1)
        expected, size = a @ matrix.T, a.abs() @ sizes.T
        # An entry that cancels is as good as the largest; beside it, rounding of the pair and of the answers.
        allowed = _SAMPLED * size + 2**-46 * size.amax(1, keepdim=True)
        allowed += _ULPS * ((u.abs() + v.abs()).flatten(1) @ sizes.T + fu.abs().flatten(1) + fv.abs().flatten(1))
        if not bool(((fu - fv).flatten(1) - expected).abs().le(allowed).all()):
            return False
    return True


def _called(builder: Builder, module: nn.Module, x: Tensor) -> Tensor:
    """What a registered module makes of samples.

    Raises:
        InvalidNetworkError: something that is no tensor of as many samples, or not finite.
    """
    y = module(x)
    if not isinstance(y, Tensor) or y.shape[:1] != x.shape[:1] or not bool(torch.isfinite(y).all()):
        raise InvalidNetworkError(
            f"{builder.path}: {type(module).__name__}, which was registered, gives no finite tensor of as many samples "
            "as it is given. Return one."
        )
    return y.double()


def _disproved(builder: Builder, name: str, said: str) -> InvalidNetworkError:
    return InvalidNetworkError(
        f"{builder.path}: {name} was registered as {said}, and samples show that it is not. Register what holds."
    )


def _samples(shape: Shape) -> tuple[Tensor, Tensor]:
    """Pairs of points, near and far from each other, and from zero."""
    generator = torch.Generator().manual_seed(0)
    count = max(8, 20_000 // math.prod(shape))
    u, d = torch.randn(2, count, *shape, generator=generator, dtype=torch.float64)
    spread, size = torch.rand(2, count, *(1 for _ in shape), generator=generator, dtype=torch.float64)
    size = 3 * torch.where(size < 0.5, 1.0, 2.0 ** (-60 * (size - 0.5)))  # half of them at the usual scale
    return size * u, size * (u + 10 ** (4 * spread - 3) * d / 3)


def function_kind(target: Callable[..., Any] | str) -> Kind | None:
    """The row of a function, or of a tensor method by its name."""
    return _FUNCTIONS.get(target)


def reason_against(operation: Any) -> str:
    """Why an operation is not in the table, in a sentence or two; nothing where it just is not."""
    classes = type(operation).__mro__ if isinstance(operation, nn.Module) else (operation,)
    known = next((REFUSED[key] for key in classes if key in REFUSED), None)
    return "" if known is None else " ".join(known) + " "


def supported() -> str:
    """The supported modules, for error messages."""
    return ", ".join(sorted({cls.__name__ for cls in _MODULES}))
