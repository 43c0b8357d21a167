"""What the nodes of a network can be for all inputs of a region: intervals, as centres and half widths."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lipguard.trusted.layers import Activation, Bilinear, Layer, Ranged, Scale
from lipguard.trusted.network.cutting import compared_at
from lipguard.trusted.network.exchanging import Exchange, exchanged_at
from lipguard.trusted.network.graph import Network
from lipguard.trusted.norms.product import product_bounds
from lipguard.trusted.regions.region import Domain
from lipguard.trusted.rounding import SMALLEST_NORMAL, gamma_up, lengths, mul_up

_FEW = 8  # roundings beside those that a layer counts
_TINY = 1e-300  # far above what underflow loses
_FUNCTION_SLACK = 1e-9  # relative error of an activation as torch computes it, with room to spare


def intervals(network: Network, domain: Domain, norms: Sequence[float]) -> dict[int, tuple[Tensor, Tensor]]:
    """(low, high) of what every activation reads, each of the shape of a sample, for all inputs of a domain.

    Two bounds are intersected. Intervals are carried from layer to layer; and around what the network makes of the
    centre no value moves further than the product of norms and the radius say, no entry further than its row does.
    """
    shape = network.input_shape
    centre, radius = domain.centre(shape)[None], domain.radius(shape)
    reach = [mul_up(radius, bound) for bound in product_bounds(network, norms)]
    wide = _carried(network, centre, domain.halves(shape)[None])
    exact = _carried(network, centre, torch.zeros_like(centre))
    found = {}
    for i in network.activations:
        (j,) = network.nodes[i].inputs
        low, high = wide[j]
        around_low, around_high = exact[j]
        away = moves(network, j, reach)
        low, high = torch.maximum(low, around_low - away), torch.minimum(high, around_high + away)
        found[i] = low[0], torch.maximum(low, high)[0]
    return found


def moves(network: Network, j: int, reach: list[float]) -> Tensor | float:
    """How far an entry of node j is from where it is at the centre: by the length of its row, where there is one."""
    node = network.nodes[j]
    rows = node.layer.squared()
    if rows is None or not math.isfinite(reach[node.inputs[0]]):
        return reach[j] * (1 + 1e-12)
    (source,) = node.inputs
    ones = torch.ones(1, *network.nodes[source].shape, dtype=torch.float64)
    terms = node.layer.roundings() + _FEW
    grown = 1 + 1e-12 + 2 * gamma_up(terms)
    # A square that underflows is below the smallest normal number.
    moved: Tensor = (rows.linear(ones) * grown + terms * SMALLEST_NORMAL).sqrt() * (reach[source] * grown) + _TINY
    return moved


def _carried(network: Network, centre: Tensor, halves: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
    """(low, high) of what activations read, by the node that makes it, from intervals around the inputs' centre."""
    wanted = {network.nodes[i].inputs[0] for i in network.activations}
    values: dict[int, tuple[Tensor, Tensor]] = {0: (centre, halves)}  # (centre, half width)
    found = {}
    for i, node in enumerate(network.nodes):
        inputs = [values[j] for j in node.inputs]
        larger, ordered = maximum_of(network, i), exchanged_at(network, i)
        if larger is not None:
            (a, r), (b, s) = (values[j] for j in larger)
            values[i] = _interval(torch.maximum(a - r, b - s), torch.maximum(a + r, b + s))
        elif ordered is not None and is_relu(network.nodes[ordered.excess].layer):
            middle, half = values[ordered.source]
            values[i] = _interval(_in_order(middle - half, ordered), _in_order(middle + half, ordered))
        elif isinstance(node.layer, Activation):
            values[i] = _activated(node.layer, *inputs[0])
        elif i:
            middle, moved, lost = affine(node.layer, inputs)
            values[i] = middle, moved + lost
        if i in wanted:
            middle, half = values[i]
            half = half + 4 * _slack(middle.abs() + half)
            found[i] = middle - half, middle + half
    return found


def maximum_of(network: Network, i: int) -> tuple[int, int] | None:
    """The two nodes whose larger entries are the value of node i; None where it is something else."""
    compared = compared_at(network, i)
    if compared is None:
        return None
    excess = network.nodes[i].inputs[1]
    layer = network.nodes[excess].layer
    difference = network.nodes[network.nodes[excess].inputs[0]]
    turned = network.nodes[difference.inputs[1]].layer
    return compared if is_relu(layer) and isinstance(turned, Scale) and turned.bias is None else None


def is_relu(layer: Layer) -> bool:
    """Whether an activation is the ReLU itself: others have its slopes."""
    return isinstance(layer, Activation) and layer.function is torch.relu


def _in_order(ends: Tensor, exchange: Exchange) -> Tensor:
    """Ends of intervals where pairs are put in order: the smaller of both, and the larger."""
    found, first, second = ends.flatten(1).clone(), torch.from_numpy(exchange.first), torch.from_numpy(exchange.second)
    a, b = found[:, first], found[:, second]
    found[:, first], found[:, second] = torch.minimum(a, b), torch.maximum(a, b)
    return found.reshape(ends.shape)


def affine(layer: Layer, inputs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """What a layer makes of intervals, given as centres and half widths: |f(x) - fl(f(c))| <= |W| r + lost.

    Returns:
        (fl(f(c)), |W| r, what rounding may have changed of f(c), weights and biases included), the last two rounded up.
    """
    centres, halves = [c for c, _ in inputs], [r for _, r in inputs]
    plain = layer.absolute()
    bias = layer.forward(*(torch.zeros_like(c[:1]) for c in centres)).abs()
    if isinstance(layer, Scale) and layer.bias_terms is not None:
        bias = bias + layer.bias_terms.to(bias)
    error = 4 * gamma_up(max(layer.roundings(), len(inputs)) + _FEW)
    moved = plain.linear(*halves) * (1 + 2 * error)
    lost = error * (plain.linear(*(c.abs() for c in centres)) + bias)
    return layer.forward(*centres), moved, lost * (1 + 2 * error) + _TINY


def bilinear(layer: Bilinear, inputs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """The same of a product: |a b - fl(c d)| <= |c| s + r (|d| + s) + lost for a within r of c, and b within s of d."""
    (a, r), (b, s) = inputs
    moved = layer.forward(a.abs(), s) + layer.forward(r, b.abs() + s)
    error = 4 * gamma_up(a.shape[-1] + _FEW)
    lost = error * layer.forward(a.abs(), b.abs())
    return layer.forward(a, b), moved * (1 + 2 * error), lost * (1 + 2 * error) + _TINY


def _activated(layer: Activation, middle: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    if layer.alpha >= 0 and layer.group == 1:
        low, high = layer.function(middle - half), layer.function(middle + half)
        error = _slack(low.abs() + high.abs() + middle.abs() + half)
        return _interval(low - error, high + error)
    value, moved, lost = activated(layer, middle, half, _FUNCTION_SLACK)
    moved = moved + lost
    if not (isinstance(layer, Ranged) and layer.image is not None):
        return value, moved
    low, high = layer.image(middle - half * (1 + 1e-15) - _TINY, middle + half * (1 + 1e-15) + _TINY)
    low, high = low - _FUNCTION_SLACK * low.abs() - _TINY, high + _FUNCTION_SLACK * high.abs() + _TINY
    return _interval(torch.maximum(low, value - moved), torch.minimum(high, value + moved))


def activated(layer: Activation, middle: Tensor, half: Tensor, slack: float) -> tuple[Tensor, Tensor, Tensor]:
    """What an activation makes of intervals, by its slopes on them; of a group as a whole.

    Args:
        layer: the activation.
        middle: centres of the intervals.
        half: half widths.
        slack: the relative error of its function as torch computes it, of the value and of the argument.

    Returns:
        (value at the centre, how far others are from it, what rounding may have changed of it).
    """
    value = layer.function(middle)
    read = middle.abs()
    if layer.group > 1:  # the whole group moves no further than the group that it reads, each entry of which counts
        lost = slack * (value.abs() + lengths(read)) * (1 + _FUNCTION_SLACK) + _TINY
        return value, lengths(half).expand_as(half), lost
    lost = slack * (value.abs() + read) * (1 + _FUNCTION_SLACK) + _TINY
    alpha, beta = torch.full_like(middle, layer.alpha), torch.full_like(middle, layer.beta)
    if layer.within is not None:
        grown = half + 4 * _slack(middle.abs() + half)
        alpha, beta = layer.within(middle - grown, middle + grown)
    return value, torch.maximum(alpha.abs(), beta.abs()) * half * (1 + _FUNCTION_SLACK), lost


def _interval(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    middle = (low + high) / 2
    half = torch.maximum(high - middle, middle - low)
    return middle, half + _slack(middle.abs() + half)


def _slack(size: Tensor) -> Tensor:
    return _FUNCTION_SLACK * size + _TINY
