"""Bounds that hold on a part of the input space: where its neurons stay in intervals, their slopes are fewer.

The network is replaced by one whose activations have, entry by entry, the slopes that they have on the domain; every
engine and proof then works as on any network. Domains are convex, so what bounds the slopes between two points of the
domain bounds the Lipschitz constant on it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipguard.certificate.norms import product_bounds
from lipguard.errors import ConfigError
from lipguard.network.graph import Network, Node
from lipguard.network.layers import (
    Activation,
    Add,
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
from lipguard.network.linearised import propagate
from lipguard.rounding import SMALLEST_NORMAL, gamma_up, mul_up

Array = NDArray[np.float64]
_UNWEIGHTED = (Input, Pad, Reshape, Pick, Add, Mosaic, Activation)  # what has no weights, or weights of one only
_FEW = 8  # roundings beside those that a layer counts
_TINY = 1e-300  # far above what underflow loses
_FUNCTION_SLACK = 1e-9  # relative error of an activation as torch computes it, with room to spare


@dataclass(frozen=True, eq=False)
class Box:
    """All inputs with low <= x <= high, entry by entry.

    Args:
        low, high: numbers, or tensors of the shape of one sample (or that broadcast to it).

    Raises:
        ConfigError: they are not finite, or not in order.
    """

    low: Tensor | float
    high: Tensor | float

    def __post_init__(self) -> None:
        low, high = _finite(self, "low"), _finite(self, "high")
        try:
            ordered = bool((low <= high).all())
        except RuntimeError as error:
            raise ConfigError("Box: expected low and high to have shapes that fit together.") from error
        if not ordered:
            raise ConfigError("Box: expected low <= high everywhere.")

    def centre(self, shape: Shape) -> Tensor:
        """One sample, of float64."""
        return ((_tensor(self.low) + _tensor(self.high)) / 2).broadcast_to(_fitting(self, shape))

    def halves(self, shape: Shape) -> Tensor:
        """How far entries are from the centre, at most."""
        middle = self.centre(shape)
        size = torch.maximum(_tensor(self.high) - middle, middle - _tensor(self.low)).broadcast_to(shape)
        return torch.nextafter(size, torch.full_like(size, torch.inf)) if bool((size > 0).any()) else size

    def radius(self, shape: Shape) -> float:
        """How far a point is from the centre, at most, in l2."""
        return float(lengths(self.halves(shape).reshape(1, -1)))

    def project(self, x: Tensor) -> Tensor:
        """The nearest points of the domain."""
        return torch.minimum(torch.maximum(x, _tensor(self.low)), _tensor(self.high))


@dataclass(frozen=True, eq=False)
class Ball:
    """All inputs within `size` of a point, in l2.

    Args:
        point: a tensor of the shape of one sample, or a number.
        size: the radius.

    Raises:
        ConfigError: they are not finite, or the radius is negative.
    """

    point: Tensor | float
    size: float

    def __post_init__(self) -> None:
        _finite(self, "point")
        if _finite(self, "size").numel() != 1 or not float(self.size) >= 0:
            raise ConfigError(f"Ball: expected its radius to be a number that is not negative, but got {self.size!r}.")

    def centre(self, shape: Shape) -> Tensor:
        """One sample, of float64."""
        return _tensor(self.point).broadcast_to(_fitting(self, shape))

    def halves(self, shape: Shape) -> Tensor:
        """How far entries are from the centre, at most."""
        return torch.full(shape, float(self.size), dtype=torch.float64)

    def radius(self, shape: Shape) -> float:
        """How far a point is from the centre, at most, in l2."""
        return float(self.size)

    def project(self, x: Tensor) -> Tensor:
        """The nearest points of the domain."""
        away = x - _tensor(self.point)
        length = away.flatten(1).norm(dim=1).reshape(-1, *(1 for _ in x.shape[1:])).clamp_min(1e-300)
        nearest: Tensor = _tensor(self.point) + away * (float(self.size) / length).clamp(max=1.0)
        return nearest


Domain: TypeAlias = Box | Ball


def _tensor(value: Tensor | float) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()  # never by way of float32


def _finite(domain: Domain, name: str) -> Tensor:
    try:
        value = _tensor(getattr(domain, name))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{type(domain).__name__}: expected {name} to be a number or a tensor.") from error
    if not torch.isfinite(value).all():
        raise ConfigError(f"{type(domain).__name__}: expected {name} to be finite.")
    return value


def _fitting(domain: Domain, shape: Shape) -> Shape:
    for field in dataclasses.fields(domain):
        own = tuple(_tensor(getattr(domain, field.name)).shape)
        try:
            fits = np.broadcast_shapes(own, shape) == tuple(shape)
        except ValueError:
            fits = False
        if not fits:
            raise ConfigError(
                f"{type(domain).__name__}: expected {field.name} to fit samples of shape {shape}, but it has the shape "
                f"{own}."
            )
    return shape


def are_equal(one: Domain, other: Domain, shape: Shape) -> bool:
    """Whether two domains of samples of a shape are the same, entry by entry."""
    if type(one) is not type(other):
        return False
    pairs = [(_tensor(getattr(one, f.name)), _tensor(getattr(other, f.name))) for f in dataclasses.fields(one)]
    try:
        return all(torch.equal(a.broadcast_to(shape), b.broadcast_to(shape)) for a, b in pairs)
    except RuntimeError:  # one of them is not of this shape
        return False


def in_words(domain: Domain) -> str:
    """A domain as it would be written, in one line; tensors are not written out."""
    own = {field.name: _tensor(getattr(domain, field.name)) for field in dataclasses.fields(domain)}
    words = (f"{float(value):g}" if value.numel() == 1 else f"a tensor of {value.numel()}" for value in own.values())
    return f"{type(domain).__name__}({', '.join(words)})"


def to_arrays(domain: Domain, shape: Shape) -> tuple[str, dict[str, Array]]:
    """(kind, arrays by name), for a certificate."""
    found = {}
    for field in dataclasses.fields(domain):
        value = _tensor(getattr(domain, field.name))
        value = value.reshape(1) if value.numel() == 1 else value.broadcast_to(shape).reshape(-1)
        found[f"domain_{field.name}"] = value.numpy().copy()
    return type(domain).__name__, found


def from_arrays(kind: str, arrays: Mapping[str, Array], shape: Shape) -> Domain:
    """The inverse of `to_arrays`.

    Raises:
        ValueError: it is none.
        ConfigError: a value makes no sense.
    """
    classes: dict[str, Any] = {"Box": Box, "Ball": Ball}
    if kind not in classes:
        raise ValueError(f"unknown domain {kind!r}")
    names = [field.name for field in dataclasses.fields(classes[kind])]
    if set(arrays) != {f"domain_{name}" for name in names}:
        raise ValueError(f"a {kind} has {names}")
    values = []
    for name in names:
        value = arrays[f"domain_{name}"]
        if value.size not in (1, math.prod(shape)):
            raise ValueError(f"{name} of a {kind} has {value.size} entries")
        values.append(float(value[0]) if value.size == 1 else torch.from_numpy(value.reshape(shape).copy()))
    domain: Domain = classes[kind](*values)
    return domain


def restricted(network: Network, domain: Domain, norms: Sequence[float]) -> Network:
    """A network whose activations have, entry by entry, the slopes that they can have on a domain.

    An entry with slopes in [alpha, beta] is alpha a + n((beta - alpha) a) for an n with slopes in [0, 1], which nothing
    reaches where there is one slope only. Where nothing is gained it is the network itself.

    Args:
        network: the network.
        domain: where it is bounded.
        norms: its `node_norms`; looser ones make another network.
    """
    found = _slopes(network, domain, norms)
    if not found:
        return network
    for i, read in _reads(network, found).items():  # what nothing reads may as well be constant
        layer = network.nodes[i].layer
        if isinstance(layer, Activation) and layer.group == 1 and not bool(read.all()):
            usual = (layer.alpha, math.nextafter(layer.beta - layer.alpha, math.inf))
            alpha, spread = found.get(i, tuple(torch.full(read.shape, v, dtype=torch.float64) for v in usual))
            found[i] = torch.where(read, alpha, 0.0), torch.where(read, spread, 0.0)
    nodes: list[Node] = []
    index: list[int] = []

    def append(layer: Layer, *inputs: int) -> int:
        nodes.append(dataclasses.replace(node, layer=layer, inputs=inputs))
        return len(nodes) - 1

    for i, node in enumerate(network.nodes):
        inputs = tuple(index[j] for j in node.inputs)
        if i not in found:
            index.append(append(node.layer, *inputs))
            continue
        alpha, spread = found[i]
        assert isinstance(node.layer, Activation)
        rest = partial(_rest, function=node.layer.function, alpha=alpha, spread=spread)
        y = append(Activation(f"{node.layer.name} on a domain", 0.0, 1.0, rest), append(Scale(spread), *inputs))
        if bool((alpha != 0).any()):
            y = append(Add(), append(Scale(alpha), *inputs), y)
        index.append(y)
    return Network(tuple(nodes))


def _reads(network: Network, found: Mapping[int, tuple[Tensor, Tensor]]) -> dict[int, Tensor]:
    """For every activation, which of its answers may reach the output: paths are counted, through weights of one."""
    plain = Network(tuple(dataclasses.replace(node, layer=_ones(node.layer)) for node in network.nodes))
    probes: dict[int, Tensor] = {}

    def step(i: int, a: Tensor) -> Tensor:
        layer = network.nodes[i].layer
        probes[i] = torch.zeros_like(a, requires_grad=True)
        if isinstance(layer, Activation) and layer.group > 1:
            a = a.sum(-1, keepdim=True).expand_as(a)
        if i in found:
            alpha, spread = found[i]
            a = a * ((alpha != 0) | (spread != 0)).to(a)
        return a + probes[i]

    with torch.enable_grad():
        y = propagate(plain, torch.zeros(1, *network.input_shape, dtype=torch.float64), step)
        counts = torch.autograd.grad(y.sum(), list(probes.values()))
    return {i: (count != 0)[0] for i, count in zip(probes, counts, strict=True)}  # what overflows is read, too


def _ones(layer: Layer) -> Layer:
    if isinstance(layer, (Conv2d, Linear)):
        return dataclasses.replace(layer, weight=(layer.weight != 0).to(torch.float64))
    if isinstance(layer, Scale):
        return dataclasses.replace(layer, scale=(layer.scale != 0).to(torch.float64))
    if isinstance(layer, _UNWEIGHTED):
        return layer
    raise no_row(layer, "weights of one")


def _rest(q: Tensor, function: Any, alpha: Tensor, spread: Tensor) -> Tensor:
    """f(x) - alpha x where q = spread x; zero where there is one slope only."""
    several = spread.to(q) > 0
    x = torch.where(several, q / spread.to(q), torch.zeros_like(q))
    return torch.where(several, function(x) - alpha.to(q) * x, torch.zeros_like(q))


def _slopes(network: Network, domain: Domain, norms: Sequence[float]) -> dict[int, tuple[Tensor, Tensor]]:
    """For activations that have fewer slopes on a domain than elsewhere: (alpha, beta - alpha), each (*shape)."""
    found = {}
    for i, (low, high) in intervals(network, domain, norms).items():
        layer = network.nodes[i].layer
        assert isinstance(layer, Activation)
        if layer.within is None or layer.group > 1:
            continue
        known = torch.isfinite(low) & torch.isfinite(high)
        alpha, beta = layer.within(torch.where(known, low, 0.0), torch.where(known, high, 0.0))
        alpha = torch.where(known, alpha, layer.alpha).clamp(min=layer.alpha, max=layer.beta)
        beta = torch.where(known, beta, layer.beta).clamp(min=layer.alpha, max=layer.beta)
        if bool((alpha > layer.alpha).any() or (beta < layer.beta).any()):
            spread = beta - alpha
            above = torch.nextafter(spread, torch.full_like(spread, torch.inf))
            found[i] = alpha, torch.where(beta > alpha, above, 0.0)
    return found


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
        away = _moves(network, j, reach)
        low, high = torch.maximum(low, around_low - away), torch.minimum(high, around_high + away)
        found[i] = low[0], torch.maximum(low, high)[0]
    return found


def _moves(network: Network, j: int, reach: list[float]) -> Tensor | float:
    """How far an entry of node j is from where it is at the centre: by the length of its row, where there is one."""
    node = network.nodes[j]
    rows = _squared(node.layer)
    if rows is None or not math.isfinite(reach[node.inputs[0]]):
        return reach[j] * (1 + 1e-12)
    (source,) = node.inputs
    ones = torch.ones(1, *network.nodes[source].shape, dtype=torch.float64)
    terms = node.layer.roundings() + _FEW
    grown = 1 + 1e-12 + 2 * gamma_up(terms)
    # A square that underflows is below the smallest normal number.
    moved: Tensor = (rows.linear(ones) * grown + terms * SMALLEST_NORMAL).sqrt() * (reach[source] * grown) + _TINY
    return moved


def _squared(layer: Layer) -> Layer | None:
    if isinstance(layer, (Conv2d, Linear)):
        return dataclasses.replace(layer, weight=layer.weight.square(), bias=None)
    if isinstance(layer, Scale):
        return dataclasses.replace(layer, scale=layer.scale.square(), bias=None, bias_terms=None)
    if isinstance(layer, _UNWEIGHTED):
        return None
    raise no_row(layer, "squared weights")


def _carried(network: Network, centre: Tensor, halves: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
    """(low, high) of what activations read, by the node that makes it, from intervals around the inputs' centre."""
    wanted = {network.nodes[i].inputs[0] for i in network.activations}
    values: dict[int, tuple[Tensor, Tensor]] = {0: (centre, halves)}  # (centre, half width)
    found = {}
    for i, node in enumerate(network.nodes):
        inputs = [values[j] for j in node.inputs]
        larger = maximum_of(network, i)
        if larger is not None:
            (a, r), (b, s) = (values[j] for j in larger)
            values[i] = _interval(torch.maximum(a - r, b - s), torch.maximum(a + r, b + s))
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
    compared = network.compared(i)
    if compared is None:
        return None
    excess = network.nodes[i].inputs[1]
    layer = network.nodes[excess].layer
    difference = network.nodes[network.nodes[excess].inputs[0]]
    turned = network.nodes[difference.inputs[1]].layer
    plain = isinstance(layer, Activation) and layer.function is torch.relu
    return compared if plain and isinstance(turned, Scale) and turned.bias is None else None


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


def _activated(layer: Activation, middle: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    if layer.alpha >= 0 and layer.group == 1:
        low, high = layer.function(middle - half), layer.function(middle + half)
        error = _slack(low.abs() + high.abs() + middle.abs() + half)
        return _interval(low - error, high + error)
    value, moved, lost = activated(layer, middle, half, _FUNCTION_SLACK)
    return value, moved + lost


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
    lost = slack * (value.abs() + middle.abs()) * (1 + _FUNCTION_SLACK) + _TINY
    if layer.group > 1:  # the whole group moves no further than the group that it reads
        return value, lengths(half).expand_as(half), lost
    alpha, beta = torch.full_like(middle, layer.alpha), torch.full_like(middle, layer.beta)
    if layer.within is not None:
        grown = half + 4 * _slack(middle.abs() + half)
        alpha, beta = layer.within(middle - grown, middle + grown)
    return value, torch.maximum(alpha.abs(), beta.abs()) * half * (1 + _FUNCTION_SLACK), lost


def lengths(rows: Tensor) -> Tensor:
    """The 2-norms along the last axis, which is kept, of entries that are not negative, rounded up.

    Rows are divided by their largest entry, for squares of small numbers are 0.
    """
    largest = rows.amax(-1, keepdim=True)
    relative = torch.where(largest > 0, rows / largest, torch.zeros_like(rows))
    found: Tensor = largest * relative.norm(dim=-1, keepdim=True) * (1 + 2 * gamma_up(rows.shape[-1] + _FEW))
    return torch.where(largest > 0, found + _TINY, found)


def _interval(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    middle = (low + high) / 2
    half = torch.maximum(high - middle, middle - low)
    return middle, half + _slack(middle.abs() + half)


def _slack(size: Tensor) -> Tensor:
    return _FUNCTION_SLACK * size + _TINY
