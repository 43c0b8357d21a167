"""What a network makes of inputs, with a proved bound of how far that is from its exact outputs.

Every node's value is computed in float64 and carries two bounds of its error: entry by entry, as intervals are carried
from layer to layer (`lipguard.trusted.regions.intervals`); and for each sample the length of all of it, which grows by
norms. Each is the smaller one somewhere: deep networks lose less by norms, the last layers less by their rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lipguard.trusted.layers import Activation, Bilinear
from lipguard.trusted.network.graph import Network
from lipguard.trusted.regions.intervals import activated, affine, bilinear, maximum_of
from lipguard.trusted.rounding import lengths, rounds_as_ieee, subnormal_numbers

_ENTRIES = 2**20  # over all nodes and the samples of a chunk
_UP = 1 + 1e-12  # above what a few operations lose
# Relative errors of activations as torch computes them in float64, of value and argument: none where entries are
# picked, one rounding where one operation is done, and far above a few units in the last place for the others.
_PICKED: tuple[Callable[..., Any], ...] = (torch.relu, torch.abs, torch.clamp, F.hardtanh, F.relu6)
_ROUNDED: tuple[Callable[..., Any], ...] = (F.leaky_relu, F.softshrink)
_ROUNDED_ONCE, _COMPUTED = 2.0**-52, 2.0**-40


class _Ball(NamedTuple):
    centre: Tensor  # (n, *shape), what was computed
    half: Tensor  # (n, *shape), how far entries are from exact ones
    length: Tensor  # (n,), how long all of it is


@subnormal_numbers()
@torch.no_grad()
def values(network: Network, x: Tensor, norms: Sequence[float] | None = None) -> tuple[Tensor, Tensor]:
    """The outputs of a network, and how far they are from exact ones.

    Args:
        network: the network, with its weights in float64.
        x: inputs, shape (n, *input_shape), of any floating type: the numbers that it holds are exact.
        norms: `node_norms` of the network; without them errors are carried entry by entry only.

    Returns:
        (outputs, errors): both float64 of shape (n, *output_shape), on the device of `x` where it rounds as IEEE 754
        asks and else on the CPU; |outputs - exact| <= errors entry by entry. Where nothing is known it is infinite.

    Raises:
        ValueError: the inputs are not floats of the network's shape.
    """
    if tuple(x.shape[1:]) != network.input_shape or not x.is_floating_point():
        raise ValueError(
            f"Expected inputs of floats of shape (n, {', '.join(map(str, network.input_shape))}), but got {x.dtype} of "
            f"shape {tuple(x.shape)}."
        )
    where = x.device if rounds_as_ieee(x.device) else torch.device("cpu")
    entries = sum(node.size for node in network.nodes)
    found = [(x.new_zeros(0, *network.output_shape, dtype=torch.float64, device=where),) * 2]
    kind = where.type
    with torch.backends.cudnn.flags(enabled=False), torch.autocast(kind, enabled=False):  # sums, not transforms
        for part in torch.split(x, max(1, _ENTRIES // entries)) if len(x) else ():
            found.append(_values(network, part.to(where, torch.float64), norms))
    outputs, errors = zip(*found, strict=True)
    return torch.cat(outputs), torch.cat(errors)


def work_of(network: Network) -> int:
    """Multiplications of one pass of one sample: what `values` takes is in proportion to them."""
    others = (node for node in network.nodes if not isinstance(node.layer, Bilinear))
    return sum(node.size * (1 + node.layer.roundings()) for node in others)


def _values(network: Network, x: Tensor, norms: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    largest = [maximum_of(network, i) for i in range(len(network.nodes))]
    last = list(range(len(network.nodes)))  # the last reader of every node
    for i, node in enumerate(network.nodes):
        for j in (*node.inputs, *(largest[i] or ())):
            last[j] = i
    last[-1] = len(network.nodes)
    balls = {0: _Ball(x, torch.zeros_like(x), x.new_zeros(len(x)))}
    for i in range(1, len(network.nodes)):
        balls[i] = _step(network, i, balls, largest[i], None if norms is None else norms[i])
        for j in [j for j in balls if last[j] <= i]:
            del balls[j]
    centre, half, _ = balls[len(network.nodes) - 1]
    return centre, half  # which is infinite where the centre is not finite: what was lost is a share of it


def _step(
    network: Network, i: int, balls: dict[int, _Ball], larger: tuple[int, int] | None, norm: float | None
) -> _Ball:
    node = network.nodes[i]
    inputs = [balls[j] for j in node.inputs]
    if larger is not None:  # no entry of a maximum moves further than those that it is the larger one of
        one, other = (balls[j] for j in larger)
        middle, moved = torch.maximum(one.centre, other.centre), torch.maximum(one.half, other.half)
        lost, length = torch.zeros_like(moved), one.length + other.length
    elif isinstance(node.layer, Activation):
        layer = node.layer
        if math.isfinite(layer.lipschitz):  # slopes on so small intervals take longer than the rest
            layer = dataclasses.replace(layer, within=None)
        middle, moved, lost = activated(layer, inputs[0].centre, inputs[0].half, _slack_of(layer))
        length = _carried(inputs, norm)
    elif isinstance(node.layer, Bilinear):
        middle, moved, lost = bilinear(node.layer, [(ball.centre, ball.half) for ball in inputs])
        length = torch.full_like(inputs[0].length, torch.inf)
    else:
        middle, moved, lost = affine(node.layer, [(ball.centre, ball.half) for ball in inputs])
        length = _carried(inputs, norm)
    half = _known((moved + lost) * _UP)
    length = _known((length + lengths(lost.reshape(len(lost), -1))[:, 0]) * _UP)
    half = torch.minimum(half, length.reshape(-1, *(1 for _ in node.shape)))
    return _Ball(middle, half, torch.minimum(length, _known(lengths(half.reshape(len(half), -1))[:, 0])))


def _carried(inputs: Sequence[_Ball], norm: float | None) -> Tensor:
    """How long the error of a layer's inputs may become."""
    total = torch.stack([ball.length for ball in inputs]).sum(0) * _UP
    if norm is None:
        return torch.full_like(total, torch.inf)
    return torch.where(total > 0, total * norm + 1e-300, total)


def _known(error: Tensor) -> Tensor:
    return error.nan_to_num(nan=torch.inf, posinf=torch.inf)


def _slack_of(layer: Activation) -> float:
    function = layer.function.func if isinstance(layer.function, partial) else layer.function
    if any(function is known for known in _PICKED):
        return 0.0
    return _ROUNDED_ONCE if any(function is known for known in _ROUNDED) else _COMPUTED
