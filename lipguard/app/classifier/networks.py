"""Feed-forward networks from plain values, so that configurations and checkpoints can hold an architecture."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lipguard.errors import ConfigError

Shape = tuple[int, ...]


def build_network(layers: Sequence[Mapping[str, Any]], input_shape: Sequence[int]) -> nn.Sequential:
    """Build the chain of layers; the sizes of inputs are worked out from `input_shape`, which has no batch axis.

    Args:
        layers: one mapping per layer: its ``kind`` and the options of that kind, e.g.
            ``{"kind": "conv", "channels": 8, "kernel": 3}``.
        input_shape: the shape of one input, e.g. ``(1, 28, 28)``.

    Raises:
        ConfigError: an unknown kind or option, or a layer that does not fit the shape that reaches it.
    """
    network = nn.Sequential()
    shape = tuple(input_shape)
    for index, layer in enumerate(layers):
        place = f"layers[{index}]"
        module = _build_layer(place, shape, dict(layer))
        shape = _output_shape(place, module, shape)
        network.append(module)
    return network


def output_shape(network: nn.Module, input_shape: Sequence[int]) -> Shape:
    """The shape of one output, without the batch axis."""
    return _output_shape("the network", network, tuple(input_shape))


def _build_layer(place: str, shape: Shape, options: dict[str, Any]) -> nn.Module:
    kind = options.pop("kind", None)
    if kind not in _KINDS:
        raise ConfigError(f"{place}: expected kind to be one of {', '.join(_KINDS)}, but got {kind!r}.")
    rule = _KINDS[kind]
    try:
        inspect.signature(rule).bind(shape, **options)
    except TypeError as error:
        known = ", ".join(list(inspect.signature(rule).parameters)[1:]) or "none"
        raise ConfigError(f"{place}: {kind}: {error}. Options of {kind}: {known}.") from error
    try:
        return rule(shape, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"{place}: {kind}: {error}.") from error


def _output_shape(place: str, module: nn.Module, shape: Shape) -> Shape:
    training = module.training
    try:
        with torch.no_grad():
            return tuple(module.eval()(torch.zeros(1, *shape)).shape[1:])
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        name = type(module).__name__
        raise ConfigError(f"{place}: {name} does not fit an input of shape {shape}: {error}") from error
    finally:
        module.train(training)


def _conv(shape: Shape, channels: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Module:
    return nn.Conv2d(_axes(shape, 3)[0], channels, kernel, stride=stride, padding=padding)


def _batch_norm(shape: Shape) -> nn.Module:
    return nn.BatchNorm2d(_axes(shape, 3)[0])


def _avg_pool(shape: Shape, kernel: int, stride: int | None = None) -> nn.Module:
    return nn.AvgPool2d(kernel, stride)


def _linear(shape: Shape, features: int) -> nn.Module:
    return nn.Linear(_axes(shape, 1)[0], features)


def _axes(shape: Shape, count: int) -> Shape:
    if len(shape) != count:
        advice = " (flatten comes first)" if count == 1 else ""
        raise ValueError(f"expected an input with {count} axes{advice}, but got shape {shape}")
    return shape


def _plain(module: type[nn.Module]) -> Callable[[Shape], nn.Module]:
    return lambda shape: module()


# One row per kind: a function of the shape that reaches the layer, and of the kind's options.
_KINDS: dict[str, Callable[..., nn.Module]] = {
    "conv": _conv,
    "batch_norm": _batch_norm,
    "avg_pool": _avg_pool,
    "flatten": _plain(nn.Flatten),
    "linear": _linear,
    "relu": _plain(nn.ReLU),
    "leaky_relu": _plain(nn.LeakyReLU),
    "elu": _plain(nn.ELU),
    "tanh": _plain(nn.Tanh),
    "sigmoid": _plain(nn.Sigmoid),
}
