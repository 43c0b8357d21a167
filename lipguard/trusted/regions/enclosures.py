"""What the nodes of any network can be for all inputs of a region: the ends of intervals, which may be infinite.

`intervals` does this for networks with a constant of their own, with norms that are known before. Here, norms depend on
intervals: the slopes of a function that is steep far from zero, and the factors of a product. So both are found
together, from node to node, on a convex domain or for all inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from lipguard.trusted.layers import Activation, Bilinear, Layer, Product, Ranged, Scale, Weightless
from lipguard.trusted.network.graph import Network
from lipguard.trusted.norms.product import node_bound
from lipguard.trusted.regions.intervals import affine, bilinear, maximum_of, moves
from lipguard.trusted.regions.region import Domain
from lipguard.trusted.rounding import add_up, gamma_up, lengths, mul_up

Ends: TypeAlias = tuple[Tensor, Tensor]  # (low, high), each (1, *shape)

_FEW, _TINY, _FAR = 8, 1e-300, 1e9
_LARGEST = 2.0**1000  # of a slope or a factor: sums of a few are finite
_RELATIVE, _ABSOLUTE = 2.0**-40, 1e-12  # what an activation as torch computes it is off by, of its value, and beside it
# Activations of which torch's values are that good: what is registered may lose what the argument is large by, too.
_KNOWN: tuple[Callable[..., Any], ...] = (
    torch.relu, torch.tanh, torch.sigmoid, torch.clamp, F.leaky_relu, F.elu, F.hardsigmoid, F.hardtanh, F.relu6,
    F.softplus, F.softsign, F.logsigmoid, F.softshrink, F.selu, F.celu,
)  # fmt: skip
# Functions that fall and then rise, with the interval where they turn, and what they do not go below.
_VALLEYS: tuple[tuple[Callable[..., Any], tuple[float, float, float]], ...] = (
    (F.silu, (-1.3, -1.2, -0.2785)), (F.gelu, (-0.8, -0.7, -0.1701)), (F.mish, (-1.25, -1.15, -0.3089)),
    (F.hardswish, (-1.6, -1.4, -0.375)), (torch.abs, (0.0, 0.0, 0.0)),
)  # fmt: skip


class Enclosed(NamedTuple):
    """What is known of a network on a region, node by node.

    Attributes:
        ends: of all its values.
        slopes: (alpha, beta) of activations whose slopes depend on intervals, by node.
        bounds: a Lipschitz constant of the map from the input; infinite where there is none.
    """

    ends: list[Ends]
    slopes: dict[int, Ends]
    bounds: list[float]


class SteepError(Exception):
    """A product of what is not bounded, or a function whose slopes are not, at a node."""

    def __init__(self, node: int) -> None:
        super().__init__(node)
        self.node = node


@torch.no_grad()
def enclosed(
    network: Network, domain: Domain | None, norm: Callable[[int], float], steep: list[int] | None = None
) -> Enclosed:
    """What is known of a network on a domain, or for all inputs.

    Args:
        network: any network.
        domain: a convex one; None for all inputs.
        norm: a certified one of the affine layer at a node.
        steep: takes up the nodes whose slopes, or factors, are not known to be finite; None where there may be none.

    Raises:
        SteepError: there is one.
    """
    shape = network.input_shape
    known, radius = Enclosed([], {}, []), math.inf
    points: list[Ends] = []  # the same at the centre alone
    if domain is not None:
        centre, half = domain.centre(shape)[None], domain.halves(shape)[None]
        points.append((centre, centre))
        infinity = torch.full_like(half, math.inf)
        known.ends.append((torch.nextafter(centre - half, -infinity), torch.nextafter(centre + half, infinity)))
        radius = domain.radius(shape)
    else:
        everything = torch.full((1, *shape), math.inf, dtype=torch.float64)
        known.ends.append((-everything, everything))
    known.bounds.append(1.0)
    reach = [radius]
    for i in range(1, len(network.nodes)):
        try:
            known.bounds.append(_bound(network, i, known, norm))
        except SteepError:
            if steep is None:
                raise
            steep.append(i)
            known.bounds.append(math.inf)
        low, high = _ends_of(network, i, known.ends, known.slopes.get(i))
        if domain is not None:
            points.append(_ends_of(network, i, points, None))
            reach.append(mul_up(radius, known.bounds[i]))
            away = moves(network, i, reach)
            low, high = torch.maximum(low, points[i][0] - away), torch.minimum(high, points[i][1] + away)
        known.ends.append(_outward(low, high))
    return known


def _bound(network: Network, i: int, known: Enclosed, norm: Callable[[int], float]) -> float:
    """Of the map from the input to node i; the slopes of an activation are noted."""
    node = network.nodes[i]
    inputs = [known.ends[j] for j in node.inputs]
    if isinstance(node.layer, Bilinear):
        (a, b), (of_a, of_b) = inputs, (known.bounds[j] for j in node.inputs)
        sizes = size_of(node.layer, *a), size_of(node.layer, *b)
        if not max(sizes) < _LARGEST:
            raise SteepError(i)
        return add_up(mul_up(sizes[0], of_b), mul_up(sizes[1], of_a))
    if not isinstance(node.layer, Activation):
        return node_bound(network, i, norm(i), known.bounds)
    steepest = node.layer.lipschitz
    slopes = _slopes_between(node.layer, *inputs[0])
    if slopes is not None:
        known.slopes[i] = slopes
        steepest = float(torch.maximum(slopes[0].abs(), slopes[1].abs()).max())
    if not steepest < _LARGEST:
        raise SteepError(i)
    return node_bound(network, i, steepest, known.bounds)


def size_of(layer: Bilinear, low: Tensor, high: Tensor) -> float:
    """How much a factor between these ends may stretch what it is multiplied with: by norm, of the largest matrix."""
    sizes = torch.maximum(low.abs(), high.abs())
    return float(sizes.max()) if isinstance(layer, Product) else float(matrix_sizes(sizes).max())


def matrix_sizes(sizes: Tensor) -> Tensor:
    """Bounds of the norms of matrices (.., n, m) whose entries are no larger than these: shape (.., 1, 1).

    A matrix of magnitudes has the larger norm, and that is at most the root of the largest sums of its rows and of its
    columns, multiplied.
    """
    rows, columns = sizes.sum(-1, keepdim=True).amax(-2, keepdim=True), sizes.sum(-2, keepdim=True).amax(-1, True)
    found: Tensor = (rows.sqrt() * columns.sqrt()) * (1 + 4 * gamma_up(sum(sizes.shape[-2:]) + _FEW)) + _TINY
    return found.nan_to_num(nan=math.inf, posinf=math.inf)


def _slopes_between(layer: Activation, low: Tensor, high: Tensor) -> Ends | None:
    """On intervals; None where nothing is known but the slopes that it has everywhere."""
    if layer.within is None:
        return None
    alpha, beta = layer.within(low, high)
    known = ~(alpha.isnan() | beta.isnan())  # of infinite ends, or of a function that is not defined there
    alpha = torch.where(known, alpha, layer.alpha).clamp(min=layer.alpha, max=layer.beta)
    return alpha, torch.where(known, beta, layer.beta).clamp(min=layer.alpha, max=layer.beta)


def _ends_of(network: Network, i: int, ends: Sequence[Ends], slopes: Ends | None) -> Ends:
    node = network.nodes[i]
    inputs = [ends[j] for j in node.inputs]
    larger = maximum_of(network, i)
    if larger is not None:
        (a, c), (b, d) = (ends[j] for j in larger)
        return torch.maximum(a, b), torch.maximum(c, d)
    if isinstance(node.layer, Activation):
        return _outward(*_image(node.layer, *inputs[0], slopes))
    if isinstance(node.layer, Product):
        return _outward(*_multiplied(*inputs))
    return _outward(*_linear(node.layer, inputs))


def _outward(low: Tensor, high: Tensor) -> Ends:
    """Nothing is known where a number is none; ends that rounding has exchanged are put in order."""
    low, high = low.nan_to_num(nan=-math.inf, neginf=-math.inf), high.nan_to_num(nan=math.inf, posinf=math.inf)
    return torch.minimum(low, high), torch.maximum(low, high)


def _multiplied(one: Ends, other: Ends) -> Ends:
    corners = [torch.where((a == 0) | (b == 0), 0.0, a * b) for a in one for b in other]  # zero times anything is zero
    low, high = torch.stack(corners).amin(0), torch.stack(corners).amax(0)
    return low - _RELATIVE * low.abs() - _TINY, high + _RELATIVE * high.abs() + _TINY


def _linear(layer: Layer, inputs: list[Ends]) -> Ends:
    """What an affine layer, or a product of matrices, makes of intervals."""
    if isinstance(layer, Scale):
        ends = [torch.where(layer.scale == 0, 0.0, end * layer.scale) for end in inputs[0]]
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        error = 2 * gamma_up(layer.roundings() + _FEW)
        bias = layer.forward(torch.zeros_like(low))
        size = bias.abs() if layer.bias_terms is None else layer.bias_terms.to(bias) + bias.abs()
        return (low + bias - error * (low.abs() + size) - _TINY, high + bias + error * (high.abs() + size) + _TINY)
    lows, highs = [low for low, _ in inputs], [high for _, high in inputs]
    if isinstance(layer, Weightless):
        error = 2 * gamma_up(len(inputs) + _FEW)
        low, high = layer.linear(*lows), layer.linear(*highs)
        if len(inputs) == 1:
            return low, high
        return (low - error * layer.linear(*(a.abs() for a in lows)) - _TINY,
                high + error * layer.linear(*(b.abs() for b in highs)) + _TINY)  # fmt: skip
    balls = [_ball(low, high) for low, high in inputs]
    infinite = [~half.isfinite() for _, half in balls]
    balls = [(middle.masked_fill(far, 0.0), half.masked_fill(far, 0.0))
             for (middle, half), far in zip(balls, infinite, strict=True)]  # fmt: skip
    if isinstance(layer, Bilinear):
        middle, half, lost = bilinear(layer, balls)
        one, other = infinite[0].to(middle), infinite[1].to(middle)
        reached = torch.matmul(one, torch.ones_like(lows[1])) + torch.matmul(torch.ones_like(lows[0]), other)
    else:
        middle, half, lost = affine(layer, balls)
        reached = layer.support().linear(*(far.to(middle) for far in infinite)) if bool(infinite[0].any()) else half * 0
    half = (half + lost).masked_fill(reached > 0, math.inf)
    return middle - half * (1 + 1e-15) - _TINY, middle + half * (1 + 1e-15) + _TINY


def _ball(low: Tensor, high: Tensor) -> Ends:
    middle = low / 2 + high / 2
    return middle, torch.maximum(high - middle, middle - low) * (1 + 1e-15) + _TINY


def _image(layer: Activation, low: Tensor, high: Tensor, slopes: Ends | None) -> Ends:
    """What an activation makes of intervals."""
    if isinstance(layer, Ranged) and layer.image is not None:
        least, most = layer.image(low, high)
        below, above = least - _RELATIVE * least.abs() - _TINY, most + _RELATIVE * most.abs() + _TINY
        return torch.where(least >= 0, below.clamp(min=0.0), below), torch.where(most <= 0, above.clamp(max=0.0), above)
    plain = layer.function.func if isinstance(layer.function, partial) else layer.function
    valley = next((turn for function, turn in _VALLEYS if plain is function), None)
    if valley is not None:
        return _in_valley(layer, low, high, *valley)
    if layer.alpha >= 0 and layer.group == 1:
        known = any(plain is function for function in _KNOWN)
        return _with_error(layer, low, high, known, layer.function(low), layer.function(high))
    middle, half = _ball(low, high)
    if layer.group > 1:
        moved = lengths(half.masked_fill(~half.isfinite(), 0.0)).expand_as(half)
        moved = moved.masked_fill(~half.isfinite().all(-1, keepdim=True), math.inf)
    else:
        steepest = torch.full_like(half, layer.lipschitz)
        if slopes is not None:
            steepest = torch.maximum(slopes[0].abs(), slopes[1].abs())
        moved = torch.where((half == 0) | (steepest == 0), 0.0, steepest * half * (1 + _RELATIVE))
    value = layer.function(middle.masked_fill(~half.isfinite(), 0.0))
    least, most = value - moved, value + moved
    return _with_error(layer, low, high, False, least, most)


def _with_error(layer: Activation, low: Tensor, high: Tensor, known: bool, least: Tensor, most: Tensor) -> Ends:
    if known:
        return least - _RELATIVE * least.abs() - _ABSOLUTE, most + _RELATIVE * most.abs() + _ABSOLUTE
    size = torch.maximum(low.abs(), high.abs())
    size = size if layer.group == 1 else size.sum(-1, keepdim=True)
    return least - _RELATIVE * (least.abs() + size) - _TINY, most + _RELATIVE * (most.abs() + size) + _TINY


def _in_valley(layer: Activation, low: Tensor, high: Tensor, left: float, right: float, bottom: float) -> Ends:
    """Of a function that falls up to where it turns, and rises from there on; far to the left it comes next to zero."""
    near = low if layer.function is torch.abs else low.clamp(min=-_FAR)
    first, last = layer.function(near), layer.function(high.clamp(min=-_FAR))
    turns = (low <= right) & (high >= left)
    least, most = torch.minimum(first, last), torch.maximum(first, last)
    least = torch.where(turns, bottom, least)
    return least - _RELATIVE * least.abs() - _ABSOLUTE, most + _RELATIVE * most.abs() + _ABSOLUTE
