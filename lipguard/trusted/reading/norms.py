"""Norms whose statistics are constants, in eval mode: batch norm, and instance norm that keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.reading.builder import Builder, Kind, Ref
from lipguard.trusted.reading.normalising import instance_norm


def _batch_norm(
    builder: Builder, x: Ref, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Ref:  # fmt: skip
    """With constant statistics: a scale per channel, and a shift."""
    if training or running_mean is None or running_var is None:
        raise InvalidNetworkError(
            f"{builder.path}: batch norm that uses the statistics of the batch makes samples depend on each other. "
            "Keep track_running_stats=True, and pass training=self.training."
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
    """In eval mode, with running statistics, what batch norm is; without them, those of the sample."""
    if running_mean is None or running_var is None:
        return instance_norm(builder, x, weight, bias, eps)
    if training:
        raise InvalidNetworkError(f"{builder.path}: it changes its statistics in training mode. Call model.eval().")
    return _batch_norm(builder, x, running_mean, running_var, weight, bias, eps=eps)


KINDS: tuple[Kind, ...] = (
    Kind(_batch_norm, nn.BatchNorm1d, _batch_norm_module, (F.batch_norm,)),
    *(Kind(_batch_norm, module, _batch_norm_module) for module in (nn.BatchNorm2d, nn.BatchNorm3d)),
    *(
        Kind(_instance_norm, module, _batch_norm_module)
        for module in (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    ),
)
