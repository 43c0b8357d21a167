"""Average pooling, as matrices, and maximum pooling, as comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.reading.arithmetic import along
from lipguard.trusted.reading.builder import Builder, Kind, Padded, Ref, attributes, several
from lipguard.trusted.reading.maxima import compared
from lipguard.trusted.reading.moving import moved


def _avg_pool(
    builder: Builder, x: Ref, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Ref:  # fmt: skip
    """A depthwise convolution where one does; or one axis after the other, by matrices."""
    axes = len(x.shape) - 1
    kernel, sides = several(kernel_size, axes), several(padding, axes)
    step = kernel if not stride else several(stride, axes)
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
        x = along(builder, x, axis, matrix)
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


_avg_pool_module = attributes("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def adaptive_avg_pool(builder: Builder, x: Ref, output_size: Any) -> Ref:
    """Means over windows of torch's choice: plain ones where they are alike, or a matrix along each axis."""
    kernel = _plain_kernel(x, output_size)
    if kernel is not None:
        return _avg_pool(builder, x, kernel)
    for axis, (n, m) in enumerate(zip(x.shape[1:], _adaptive_size(x, output_size), strict=True), start=1):
        windows = _adaptive_windows(n, m)
        matrix = torch.zeros(m, n, dtype=torch.float64)
        for row, window in zip(matrix, windows, strict=True):
            row[window[window < n]] = 1 / float((window < n).sum())
        x = along(builder, x, axis, matrix)
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


def _max_pool(
    builder: Builder, x: Ref | Padded, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Ref:  # fmt: skip
    """Along one axis after the other; what is outside of the image never counts."""
    x, around = (x.ref, x.padding) if isinstance(x, Padded) else (x, ())
    axes = len(x.shape) - 1
    if len(around) > 2 * axes:
        raise builder.unsupported("max pooling of padded channels", "Pad images only.")
    around = (*around, *(0 for _ in range(2 * axes - len(around))))  # the last axis first
    if return_indices:
        raise builder.unsupported("max pooling that returns indices", "Use return_indices=False.")
    kernel, sides, spacing = (several(value, axes) for value in (kernel_size, padding, dilation))
    step = kernel if not stride else several(stride, axes)
    for axis, (k, s, p, d) in enumerate(zip(kernel, step, sides, spacing, strict=True), start=1):
        before, behind = around[2 * (axes - axis) : 2 * (axes - axis) + 2]
        count = _windows(x.shape[axis] + before + behind, k, s, p, d, ceil_mode)
        x = _largest(builder, x, axis, torch.arange(count)[:, None] * s + torch.arange(k) * d - p - before)
    return x


def _windows(n: int, k: int, s: int, p: int, d: int, ceil_mode: bool) -> int:
    """How many windows a pooling has along an axis of n entries: torch's rule."""
    free = n + 2 * p - d * (k - 1) - 1
    count = (-(-free // s) if ceil_mode else free // s) + 1
    return count - 1 if ceil_mode and (count - 1) * s >= n + p else count  # none begins in the padding


def _largest(builder: Builder, x: Ref, axis: int, windows: Tensor) -> Ref:
    """The largest entry of every window along an axis, by comparisons of halves.

    Args:
        builder: of the network.
        x: of any shape.
        axis: of a sample.
        windows: positions along it, shape (windows, taps); those outside of [0, n) do not count.

    Raises:
        InvalidNetworkError: a window has no others.
    """
    inside = (windows >= 0) & (windows < x.shape[axis])
    if not bool(inside.any(1).all()):
        raise InvalidNetworkError(
            f"{builder.path}: a window of its max pooling holds nothing but padding, where it is -inf: samples have "
            f"the shape {x.shape} there. Use a smaller kernel, dilation or padding."
        )
    present = windows.gather(1, inside.long().argmax(1, keepdim=True))
    windows = torch.where(inside, windows, present)  # another entry of the window, which changes nothing
    views = [_taken(builder, x, axis, column) for column in windows.unbind(1)]
    while len(views) > 1:
        larger = [compared(builder, a, b) for a, b in zip(views[::2], views[1::2], strict=False)]
        views = larger + views[2 * len(larger) :]
    return views[0]


def _taken(builder: Builder, x: Ref, axis: int, positions: Tensor) -> Ref:
    """Some positions of an axis: a strided convolution of one tap, which can be tiled, where there is one."""
    first, last, n = int(positions[0]), int(positions[-1]), x.shape[axis]
    step = int(positions[1]) - first if len(positions) > 1 else 1
    regular = step > 0 and torch.equal(positions, torch.arange(first, last + 1, step))
    if len(x.shape) != 3 or not regular or len(positions) == n:
        return moved(builder, x, lambda v: v.index_select(axis + 1, positions))
    one, crop = torch.ones(x.shape[0], 1, 1, 1, dtype=torch.float64), (-first, last + 1 - n)
    sides, steps = ((0, 0, *crop), (step, 1)) if axis == 1 else ((*crop, 0, 0), (1, step))
    return builder.emit(layers.Conv2d(one, None, steps, sides, (1, 1), x.shape[0]), x)


_max_pool_module = attributes("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")


def _adaptive_max_pool(builder: Builder, x: Ref, output_size: Any, return_indices: bool = False) -> Ref:
    kernel = _plain_kernel(x, output_size)
    if kernel is not None or return_indices:
        return _max_pool(builder, x, kernel, return_indices=return_indices)
    for axis, m in enumerate(_adaptive_size(x, output_size), start=1):
        x = _largest(builder, x, axis, _adaptive_windows(x.shape[axis], m))
    return x


KINDS: tuple[Kind, ...] = (
    *(
        Kind(_avg_pool, module, _avg_pool_module, (function,))
        for module, function in ((nn.AvgPool2d, F.avg_pool2d), (nn.AvgPool3d, F.avg_pool3d))
    ),
    Kind(
        _avg_pool,
        nn.AvgPool1d,
        attributes("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
        (F.avg_pool1d,),
    ),
    *(
        Kind(adaptive_avg_pool, module, attributes("output_size"), (function,))
        for module, function in (
            (nn.AdaptiveAvgPool1d, F.adaptive_avg_pool1d),
            (nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d),
            (nn.AdaptiveAvgPool3d, F.adaptive_avg_pool3d),
        )
    ),
    *(
        Kind(_max_pool, module, _max_pool_module, pending=(Padded,))
        for module in (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
    ),
    Kind(
        _max_pool,
        functions=(F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d),
        pending=(Padded,),
    ),
    *(
        Kind(_adaptive_max_pool, module, attributes("output_size", "return_indices"), (function,))
        for module, function in (
            (nn.AdaptiveMaxPool1d, F.adaptive_max_pool1d),
            (nn.AdaptiveMaxPool2d, F.adaptive_max_pool2d),
            (nn.AdaptiveMaxPool3d, F.adaptive_max_pool3d),
        )
    ),
)
