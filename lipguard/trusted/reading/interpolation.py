"""Interpolation: entries picked, or matrices along the axes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipguard.trusted.reading.arithmetic import along
from lipguard.trusted.reading.builder import Builder, Kind, Ref, attributes
from lipguard.trusted.reading.moving import moved
from lipguard.trusted.reading.pooling import adaptive_avg_pool


def _upsample(
    builder: Builder, x: Ref, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> Ref:  # fmt: skip
    """Nearest entries are picked; the mean of an area is a pooling; the others are a matrix along each axis."""

    def run(v: Tensor) -> Tensor:
        return F.interpolate(v, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)

    if mode in ("nearest", "nearest-exact"):
        return moved(builder, x, run)
    shape = run(torch.zeros(1, *x.shape, dtype=torch.float64)).shape[1:]
    if mode == "area":
        return adaptive_avg_pool(builder, x, shape[1:])
    factors = _several_factors(scale_factor, len(x.shape) - 1)
    plain = mode if mode == "bicubic" else "bilinear"
    for axis in range(1, len(x.shape)):  # by what the interpolation makes of unit vectors along one axis
        n, m = x.shape[axis], shape[axis]
        kept = factors is not None and not recompute_scale_factor
        sizes = {"scale_factor": (factors[axis - 1], 1.0)} if kept and factors else {"size": (m, 2)}
        # Two columns, for of one torch takes the rows wrongly where it is to smooth.
        units = torch.eye(n, dtype=torch.float64).reshape(n, 1, n, 1).repeat(1, 1, 1, 2)
        weight = F.interpolate(units, mode=plain, align_corners=align_corners, antialias=antialias, **sizes)
        x = along(builder, x, axis, weight[:, 0, :, 0].T.contiguous())
    return x


def _several_factors(scale_factor: Any, axes: int) -> tuple[float, ...] | None:
    if scale_factor is None:
        return None
    return (float(scale_factor),) * axes if isinstance(scale_factor, (int, float)) else tuple(map(float, scale_factor))


_upsample_module = attributes("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")

KINDS: tuple[Kind, ...] = (
    *(Kind(_upsample, module, _upsample_module) for module in (nn.Upsample, nn.UpsamplingNearest2d)),
    Kind(_upsample, nn.UpsamplingBilinear2d, _upsample_module, (F.interpolate,)),
)
