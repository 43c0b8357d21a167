"""Convolutions: of images, of lines, of volumes, and transposed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.reading.builder import Builder, Kind, Ref, attributes, several
from lipguard.trusted.reading.moving import moved

Pair = int | tuple[int, int]


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
        x = moved(builder, x, lambda v: F.pad(v, tuple(sides), mode=padding_mode))
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
    (s, *step), (d, *spacing) = several(stride, 3), several(dilation, 3)
    kernel = constant.shape[2:]
    if padding == "same":
        total = d * (kernel[0] - 1)
        before, after, sides = total // 2, total - total // 2, "same"
    else:
        before, *rest = (0, 0, 0) if padding == "valid" else several(padding, 3)
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
    step, sides, extra, spacing = (several(v, axes) for v in (stride, padding, output_padding, dilation))

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
    spaced = moved(builder, x, spread)
    return rule(builder, spaced, turned.reshape(-1, *turned.shape[2:]), bias, 1, 0, dilation, groups)


def _fold(
    builder: Builder, x: Ref, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Ref:
    """Patches laid over each other: a transposed convolution of an image of them, with a one for each of their taps."""
    _axes(builder, x, 2, "folding")
    size, kernel, sides, step, spacing = (several(v, 2) for v in (output_size, kernel_size, padding, stride, dilation))
    taps = kernel[0] * kernel[1]
    rows, columns = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, p, s, d in zip(size, kernel, sides, step, spacing, strict=True)
    )
    reach = [
        (count - 1) * s - 2 * p + d * (k - 1) + 1
        for count, k, p, s, d in zip((rows, columns), kernel, sides, step, spacing, strict=True)
    ]
    image = builder.emit(layers.Reshape((x.shape[0], rows, columns)), x)
    one = torch.eye(taps, dtype=torch.float64).reshape(taps, 1, *kernel).repeat(x.shape[0] // taps, 1, 1, 1)
    extra = [n - reached for n, reached in zip(size, reach, strict=True)]
    return _conv_transpose(builder, image, one, None, step, sides, extra, x.shape[0] // taps, spacing)


_conv_transpose_module = attributes("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")


def _axes(builder: Builder, x: Ref, axes: int, what: str) -> None:
    if len(x.shape) != axes:
        raise InvalidNetworkError(
            f"{builder.path}: {what} expects samples of {axes} axes, the first of channels, but got {x.shape}. "
            "input_shape is the shape of one sample, without the batch axis."
        )


def _first(value: Any) -> int:
    return int(value) if isinstance(value, int) else int(next(iter(value)))


KINDS: tuple[Kind, ...] = (
    *(Kind(_convolution, module, _convolution_module) for module in (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
    Kind(_conv1d, functions=(torch.conv1d,)),
    Kind(_conv2d, functions=(torch.conv2d,)),
    Kind(_conv3d, functions=(torch.conv3d,)),
    Kind(
        _fold,
        nn.Fold,
        attributes("output_size", "kernel_size", "dilation", "padding", "stride"),
        (F.fold,),
    ),
    Kind(_conv_transpose, nn.ConvTranspose1d, _conv_transpose_module, (F.conv_transpose1d,)),
    Kind(_conv_transpose, nn.ConvTranspose2d, _conv_transpose_module, (F.conv_transpose2d,)),
    Kind(_conv_transpose, nn.ConvTranspose3d, _conv_transpose_module, (F.conv_transpose3d,)),
)
