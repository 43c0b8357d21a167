"""The table of certified norms, one row for each kind of layer. There is no default."""

from __future__ import annotations

import math
from functools import singledispatch

import numpy as np

from lipguard.trusted.layers import (
    Activation,
    Add,
    Bilinear,
    Conv2d,
    Input,
    Layer,
    Linear,
    Mosaic,
    Pad,
    Pick,
    Reshape,
    Scale,
    Shape,
    no_row,
)
from lipguard.trusted.network.graph import Network
from lipguard.trusted.norms.convolutions import convolution_norm, distinct
from lipguard.trusted.norms.matrices import LateNormError, crude_norm_by_rows, matrix_norm
from lipguard.trusted.proofs.hints import Hints
from lipguard.trusted.rounding import gamma_up, mul_up, sqrt_up, up

_QUICK, _FEW_GROUPS = 2.0**22, 16  # `_work`, and groups, of a layer whose norm takes some milliseconds


def node_norms(network: Network, hints: Hints, deadline: float = math.inf, *, exact: bool = False) -> list[float]:
    """For every node, a certified Lipschitz constant of its own layer.

    Args:
        network: the network.
        hints: who knows orders of elimination.
        deadline: of `time.monotonic()`. What is not proved by then has a looser bound, certified as well, that takes
            next to no time. Small layers go first, as many of them take less than one large one.
        exact: whether a looser bound will not do.

    Raises:
        LateNormError: one is not proved by the deadline, and `exact` asks for it.
    """
    shapes = [network.nodes[node.inputs[0]].shape if node.inputs else node.shape for node in network.nodes]
    keys = [(id(node.layer), shape) for node, shape in zip(network.nodes, shapes, strict=True)]
    layers = dict(zip(keys, network.nodes, strict=True))  # one used twice has one norm
    known: dict[tuple[int, Shape], float] = {}
    for key, node in sorted(layers.items(), key=lambda item: _work(item[1].layer, item[0][1])):
        try:
            known[key] = layer_norm(node.layer, key[1], hints, deadline)
        except LateNormError as late:
            if exact:
                raise
            known[key] = min(crude_norm(node.layer, hints), late.bound)
    return [known[key] for key in keys]


def quick_norm(layer: Layer, input_shape: Shape, hints: Hints) -> float:
    """A certified norm that takes little time, and is the same whoever asks, and whenever: a looser one if need be."""
    groups = layer.groups if isinstance(layer, Conv2d) else 1
    small = groups <= _FEW_GROUPS and _work(layer, input_shape) <= _QUICK
    return layer_norm(layer, input_shape, hints) if small else crude_norm(layer, hints)


def _work(layer: Layer, input_shape: Shape) -> float:
    """About how long a layer's norm takes, relative to others."""
    if isinstance(layer, Linear):
        m, n = sorted(layer.weight.shape)
        return float(m) ** 2 * n
    if isinstance(layer, Conv2d):
        return math.prod(input_shape[1:]) * float(min(layer.weight.shape[:2])) ** 2 * max(layer.weight.shape[:2])
    return 0.0


def crude_norm(layer: Layer, hints: Hints) -> float:
    """Certified upper bound of the spectral norm of a layer's linear part, in one look at its weights.

    Of a matrix sqrt(|W|_1 |W|_inf), of a convolution the same: an output entry reads every weight of its channel once
    at most, and an input entry is read with every weight of its own once at most. Others have no better bound anyway.
    """
    if isinstance(layer, Linear):
        return crude_norm_by_rows(layer.weight.numpy(), layer.weight_ulps)
    if not isinstance(layer, Conv2d):
        return layer_norm(layer, (), hints)
    norm = 0.0
    for weight in layer.weight.numpy().reshape(layer.groups, -1, *layer.weight.shape[1:]):
        sizes = np.abs(weight)
        sums = mul_up(float(sizes.sum(axis=(1, 2, 3)).max()), float(sizes.sum(axis=(0, 2, 3)).max()))
        norm = max(norm, mul_up(sqrt_up(sums), up(1 + gamma_up(sizes.size + layer.weight_ulps))))
    return norm


@singledispatch
def layer_norm(layer: Layer, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    """Certified upper bound of the spectral norm of a layer's linear part, for inputs of `input_shape`.

    Of a layer with several inputs, for each of them alone: `product_bounds` adds them up.

    Raises:
        NotImplementedError: the kind of layer has no row here.
        LateNormError: it is not proved before the deadline, of `time.monotonic()`.
    """
    raise no_row(layer, "norms")


@layer_norm.register
def _(layer: Input, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return 1.0  # as it is


@layer_norm.register
def _(layer: Pad, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return 1.0  # every entry once, or not at all, beside zeros


@layer_norm.register
def _(layer: Reshape, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return 1.0  # every entry once, in the same order


@layer_norm.register
def _(layer: Add, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return 1.0  # each input enters as it is


@layer_norm.register
def _(layer: Mosaic, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return 1.0  # every entry of each input once, in a place of its own


@layer_norm.register
def _(layer: Activation, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return layer.lipschitz


@layer_norm.register
def _(layer: Bilinear, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return math.inf  # as large as the other factor


@layer_norm.register
def _(layer: Pick, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return sqrt_up(float(layer.most))


@layer_norm.register
def _(layer: Scale, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return mul_up(float(layer.scale.abs().max()), up(1 + gamma_up(layer.weight_ulps)))


@layer_norm.register
def _(layer: Linear, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return matrix_norm(layer.weight.numpy(), layer.weight_ulps, deadline)


@layer_norm.register
def _(layer: Conv2d, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    norm, late = 0.0, False  # groups act on channels of their own: the largest counts
    for weight in distinct(layer.weight.chunk(layer.groups)):
        group = Conv2d(weight, None, layer.stride, layer.padding, layer.dilation, 1, layer.weight_ulps)
        try:
            norm = max(norm, convolution_norm(group, (weight.shape[1], *input_shape[1:]), hints, deadline))
        except LateNormError as error:
            norm, late = max(norm, error.bound), True
    if late:
        raise LateNormError(norm)
    return norm
