"""The network that is bounded in place of one: all of its activations have finite slopes, and nothing is a product.

Most networks are their own. On a domain their slopes are fewer (`restriction`). Those with steep functions or products
have finite ones only where their values are bounded: on a domain, or for all inputs where what is multiplied is.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from lipguard.errors import UnsupportedLayerError
from lipguard.trusted.layers import Activation, Add, Layer, Linear, MatrixProduct, Pad, Pick, Product, Scale, factor
from lipguard.trusted.network.cutting import compared_at
from lipguard.trusted.network.graph import Network, Node
from lipguard.trusted.norms.layers import node_norms, quick_norm
from lipguard.trusted.proofs.hints import Hints
from lipguard.trusted.regions.enclosures import Enclosed, Ends, SteepError, enclosed, matrix_sizes
from lipguard.trusted.regions.region import Domain, in_words
from lipguard.trusted.regions.restriction import rest_of, restricted

_ADVICE = "It has no global Lipschitz constant: name bounded inputs, such as domain=lipguard.Box(-3, 3)."
_Index: TypeAlias = list[int]


def bounded(network: Network, domain: Domain | None, hints: Hints, deadline: float = math.inf) -> Network:
    """What proofs are about: a network each of whose bounds is one of the network, on the domain or everywhere.

    Args:
        network: as it was read.
        domain: on which it is bounded; None for all inputs.
        hints: who knows orders of elimination.
        deadline: of `time.monotonic()`, for norms that both certifier and verifier have to know.

    Raises:
        UnsupportedLayerError: something in it has no finite slopes there.
        LateNormError: there is no time for the norms.
    """
    if network.steep:
        return _Expansion(network, domain, hints).network()
    if domain is None:
        return network
    return restricted(network, domain, node_norms(network, hints, deadline, exact=True))


def steep_parts(network: Network, domain: Domain | None, hints: Hints) -> list[tuple[Node, UnsupportedLayerError]]:
    """All that has no finite slopes on a domain, or for all inputs: nodes, and how they are refused."""
    steep: list[int] = []
    if network.steep:
        enclosed(network, domain, _QuickNorms(network, hints), steep)
    return [(network.nodes[i], _refused(network.nodes[i], domain)) for i in steep]


def refuse_steep(network: Network) -> None:
    """Refuse a network that is not itself what is bounded: with products, or steep functions.

    Raises:
        UnsupportedLayerError: the first of these.
    """
    for i in network.steep:
        node = network.nodes[i]
        advice = "It is bounded by what its values are, which are not known here. Use an activation of bounded slope."
        raise UnsupportedLayerError(node.path, _kind_of(node), advice)


def _kind_of(node: Node) -> str:
    layer = node.layer
    return layer.name if isinstance(layer, Activation) else "the product of two values that depend on the input"


def _refused(node: Node, domain: Domain | None) -> UnsupportedLayerError:
    kind = _kind_of(node)
    if domain is None:
        return UnsupportedLayerError(node.path, kind, _ADVICE)
    where = f"On {in_words(domain)} its slopes are not known to be finite. Name a smaller domain."
    return UnsupportedLayerError(node.path, kind, where)


class _QuickNorms:
    """Certified norms of affine layers, by node."""

    def __init__(self, network: Network, hints: Hints) -> None:
        self._network, self._hints = network, hints
        self._known: dict[int, float] = {}  # by the layer's id

    def __call__(self, i: int) -> float:
        node = self._network.nodes[i]
        if id(node.layer) not in self._known or not isinstance(node.layer, Linear):  # others depend on the shape
            self._known[id(node.layer)] = quick_norm(node.layer, self._network.nodes[node.inputs[0]].shape, self._hints)
        return self._known[id(node.layer)]


class _Expansion:
    """Nodes of a network, each replaced by what is known of it on a domain."""

    def __init__(self, network: Network, domain: Domain | None, hints: Hints) -> None:
        self._read = network
        try:
            self._known: Enclosed = enclosed(network, domain, _QuickNorms(network, hints))
        except SteepError as error:
            raise _refused(network.nodes[error.node], domain) from error
        # Where values are compared, sums of squares are known of the whole, which its parts would not show.
        compared = (i for i in range(len(network.nodes)) if compared_at(network, i) is not None)
        self._compared = {network.nodes[i].inputs[1] for i in compared}
        self._nodes: list[Node] = []
        self._index: _Index = []
        self._at = network.nodes[0]

    def network(self) -> Network:
        """The network of what they are replaced by."""
        for i, node in enumerate(self._read.nodes):
            self._at = node
            inputs = tuple(self._index[j] for j in node.inputs)
            ends = [self._known.ends[j] for j in node.inputs]
            if isinstance(node.layer, Product):
                self._index.append(self._product(inputs, ends))
            elif isinstance(node.layer, MatrixProduct):
                self._index.append(self._matrices(inputs, ends))
            elif isinstance(node.layer, Activation):
                slopes = None if i in self._compared else self._known.slopes.get(i)
                self._index.append(self._activation(node.layer, inputs[0], slopes))
            else:
                self._index.append(self._append(node.layer, *inputs))
        return Network(tuple(self._nodes))

    def _append(self, layer: Layer, *inputs: int) -> int:
        """A node in the place of the one in hand."""
        shapes = [self._nodes[j].shape for j in inputs]
        shape = self._at.shape
        if isinstance(layer, (Scale, Add, Activation)):
            shape = shapes[0]
        elif isinstance(layer, Pick) and self._at.layer is not layer:
            shape = tuple(layer.index.shape)
        elif isinstance(layer, Pad) and self._at.layer is not layer:
            shape = (*shapes[0][:-1], shapes[0][-1] + sum(layer.padding))
        self._nodes.append(dataclasses.replace(self._at, layer=layer, inputs=inputs, shape=shape))
        return len(self._nodes) - 1

    def _activation(self, layer: Activation, x: int, slopes: Ends | None) -> int:
        """As `restriction` has them, where slopes are fewer; of a group, less of what it reads."""
        if slopes is None:
            return self._append(layer, x)
        alpha, beta = slopes
        if not bool(((alpha > layer.alpha) | (beta < layer.beta)).any()):
            return self._append(layer, x)
        if layer.group > 1:
            return self._append(factor(-1.0, 1.0, layer.group), self._append(Scale(beta[0]), x))
        spread = _above(beta - alpha, beta > alpha)[0]
        rest = partial(rest_of, function=layer.function, alpha=alpha[0], spread=spread)
        y = self._append(Activation(f"{layer.name} on a domain", 0.0, 1.0, rest), self._append(Scale(spread), x))
        if bool((alpha != 0).any()):
            y = self._append(Add(), self._append(Scale(alpha[0]), x), y)
        return y

    def _product(self, inputs: tuple[int, ...], ends: list[Ends]) -> int:
        """Each input, times what the other can be."""
        (a, b), (of_a, of_b) = inputs, ends
        return self._append(Add(), self._times(b, *of_a), self._times(a, *of_b))

    def _times(self, x: int, low: Tensor, high: Tensor) -> int:
        """x times numbers between two ends: the nearest one to zero, or where they are on both sides the middle."""
        if bool((low >= 0).all()):
            least, spread, alpha = low[0], _above(high - low, high > low)[0], 0.0
        else:
            least = ((low + high) / 2)[0]
            spread, alpha = _above(torch.maximum(high[0] - least, least - low[0]), (high > low)[0]), -1.0
        y = self._append(factor(alpha, 1.0), self._append(Scale(spread), x))
        return self._append(Add(), self._append(Scale(least), x), y) if bool((least != 0).any()) else y

    def _matrices(self, inputs: tuple[int, ...], ends: list[Ends]) -> int:
        """A B: every column of B times a matrix no longer than A can be, and every row of A times one like B."""
        (a, b), (of_a, of_b) = inputs, [torch.maximum(low.abs(), high.abs()) for low, high in ends]
        n, m = of_a.shape[-2], of_b.shape[-1]
        columns = self._turned(self._group(self._turned(b), matrix_sizes(of_a), n))
        return self._append(Add(), columns, self._group(a, matrix_sizes(of_b), m))

    def _turned(self, x: int) -> int:
        shape = self._nodes[x].shape
        return self._append(Pick(torch.arange(math.prod(shape)).reshape(shape).transpose(-1, -2).contiguous()), x)

    def _group(self, x: int, sizes: Tensor, entries: int) -> int:
        """Every row of x times a matrix of this norm, with so many entries in its answer."""
        own = self._nodes[x].shape[-1]
        y, most = self._append(Scale(sizes[0]), x), max(own, entries)
        y = self._append(Pad((0, most - own)), y) if most > own else y
        y = self._append(factor(-1.0, 1.0, most), y)
        return self._append(Pad((0, entries - most)), y) if most > entries else y


def _above(value: Tensor, several: Tensor) -> Tensor:
    """The next numbers above; zero where there is one number only."""
    return torch.where(several, torch.nextafter(value, torch.full_like(value, math.inf)), 0.0)
