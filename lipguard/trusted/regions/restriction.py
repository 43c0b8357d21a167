"""The network on a part of the input space: where its neurons stay in intervals, their slopes are fewer.

The network is replaced by one whose activations have, entry by entry, the slopes that they have on the domain; every
engine and proof then works as on any network. Domains are convex, so what bounds the slopes between two points of the
domain bounds the Lipschitz constant on it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lipguard.trusted.layers import (
    Activation,
    Add,
    Layer,
    Scale,
    factor,
)
from lipguard.trusted.lmi.freed import propagate
from lipguard.trusted.network.graph import Network, Node
from lipguard.trusted.regions.intervals import intervals
from lipguard.trusted.regions.region import Domain


def restricted(network: Network, domain: Domain, norms: Sequence[float]) -> Network:
    """A network whose activations have, entry by entry, the slopes that they can have on a domain.

    An entry with slopes in [alpha, beta] is alpha a + n((beta - alpha) a) for an n with slopes in [0, 1], which nothing
    reaches where there is one slope only. Where nothing is gained it is the network itself.

    Args:
        network: the network.
        domain: where it is bounded.
        norms: its `node_norms`; looser ones make another network.
    """
    found, groups = _slopes(network, domain, norms)
    if not found and not groups:
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
        if i in groups:
            assert isinstance(node.layer, Activation)
            index.append(append(factor(-1.0, 1.0, node.layer.group), append(Scale(groups[i]), *inputs)))
            continue
        if i not in found:
            index.append(append(node.layer, *inputs))
            continue
        alpha, spread = found[i]
        assert isinstance(node.layer, Activation)
        rest = partial(rest_of, function=node.layer.function, alpha=alpha, spread=spread)
        y = append(Activation(f"{node.layer.name} on a domain", 0.0, 1.0, rest), append(Scale(spread), *inputs))
        if bool((alpha != 0).any()):
            y = append(Add(), append(Scale(alpha), *inputs), y)
        index.append(y)
    return Network(tuple(nodes))


def _reads(network: Network, found: Mapping[int, tuple[Tensor, Tensor]]) -> dict[int, Tensor]:
    """For every activation, which of its answers may reach the output: paths are counted, through weights of one."""
    plain = Network(tuple(dataclasses.replace(node, layer=node.layer.support()) for node in network.nodes))
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


def rest_of(q: Tensor, function: Any, alpha: Tensor, spread: Tensor) -> Tensor:
    """f(x) - alpha x where q = spread x; zero where there is one slope only."""
    several = spread.to(q) > 0
    x = torch.where(several, q / spread.to(q), torch.zeros_like(q))
    return torch.where(several, function(x) - alpha.to(q) * x, torch.zeros_like(q))


def _slopes(
    network: Network, domain: Domain, norms: Sequence[float]
) -> tuple[dict[int, tuple[Tensor, Tensor]], dict[int, Tensor]]:
    """For activations that have fewer slopes on a domain than elsewhere: (alpha, beta - alpha), each (*shape).

    And for groups that move less than what they read: how much, at most, the same number for all of a group.
    """
    found, groups = {}, {}
    for i, (low, high) in intervals(network, domain, norms).items():
        layer = network.nodes[i].layer
        assert isinstance(layer, Activation)
        if layer.within is None:
            continue
        known = torch.isfinite(low) & torch.isfinite(high)
        alpha, beta = layer.within(torch.where(known, low, 0.0), torch.where(known, high, 0.0))
        alpha = torch.where(known, alpha, layer.alpha).clamp(min=layer.alpha, max=layer.beta)
        beta = torch.where(known, beta, layer.beta).clamp(min=layer.alpha, max=layer.beta)
        if layer.group > 1:
            whole = known.all(-1, keepdim=True).expand_as(known)
            if bool((whole & (beta < layer.beta)).any()):
                groups[i] = torch.where(whole, beta, layer.beta)
            continue
        if bool((alpha > layer.alpha).any() or (beta < layer.beta).any()):
            spread = beta - alpha
            above = torch.nextafter(spread, torch.full_like(spread, torch.inf))
            found[i] = alpha, torch.where(beta > alpha, above, 0.0)
    return found, groups
