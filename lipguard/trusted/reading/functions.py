"""Element-wise functions."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.reading.builder import Builder, Kind, Ref, Rule
from lipguard.trusted.reading.lines import relu
from lipguard.trusted.reading.maxima import larger, smaller


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


def _clamp(builder: Builder, x: Ref, min: Any = None, max: Any = None) -> Ref:
    several = any(isinstance(limit, Ref) or (isinstance(limit, Tensor) and limit.numel() > 1) for limit in (min, max))
    if several or ((min is None) != (max is None) and math.isfinite(min if max is None else max)):
        x = x if min is None else larger(builder, x, min)
        return x if max is None else smaller(builder, x, max)
    low, high = (given if value is None else value for value, given in ((min, -math.inf), (max, math.inf)))
    return builder.emit(_made(builder, layers.clamp, low=low, high=high), x)


def _relu(builder: Builder, x: Ref, inplace: bool = False) -> Ref:
    return relu(builder, x)


KINDS: tuple[Kind, ...] = (
    Kind(_clamp, functions=(torch.clamp, torch.clip, "clamp", "clamp_", "clip")),
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
    Kind(_relu, nn.ReLU, functions=(F.relu, torch.relu, torch.relu_, "relu", "relu_")),
    Kind(
        _activation(layers.leaky_relu, "negative_slope"),
        nn.LeakyReLU,
        lambda m: {"negative_slope": m.negative_slope},
        (F.leaky_relu,),
    ),
    Kind(_activation(layers.tanh), nn.Tanh, functions=(torch.tanh, F.tanh, "tanh", "tanh_")),
    Kind(_activation(layers.inverse_sinh), functions=(torch.asinh, "asinh")),
    Kind(_activation(layers.sigmoid), nn.Sigmoid, functions=(torch.sigmoid, F.sigmoid, "sigmoid", "sigmoid_")),
    Kind(_activation(layers.elu, "alpha"), nn.ELU, lambda m: {"alpha": m.alpha}, (F.elu,)),
)
