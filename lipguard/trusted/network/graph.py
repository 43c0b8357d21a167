"""A traced network: layer values in a directed acyclic graph, in order of execution."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lipguard.errors import InvalidNetworkError
from lipguard.trusted.layers import Activation, Add, Copies, Input, Layer, Linear, Mosaic, Pad, Scale, Shape, copies
from lipguard.trusted.network.digest import described


@dataclass(frozen=True, eq=False)
class Node:
    """One use of a layer. A module that is called twice makes two nodes.

    `note` says which function is meant, where weights are not simply tensors that the module holds.
    """

    path: str
    layer: Layer
    inputs: tuple[int, ...]  # indices of earlier nodes
    shape: Shape  # of one sample, without the batch axis
    note: str = ""

    @property
    def size(self) -> int:
        """Number of entries of one sample."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Network:
    """Nodes in order of execution: node 0 is the input, the last node is the output, every node reaches the output."""

    nodes: tuple[Node, ...]

    @property
    def input_shape(self) -> Shape:
        """Shape of one input sample."""
        return self.nodes[0].shape

    @property
    def output_shape(self) -> Shape:
        """Shape of one output sample."""
        return self.nodes[-1].shape

    @cached_property
    def activations(self) -> tuple[int, ...]:
        """Indices of the activation nodes."""
        return tuple(i for i, node in enumerate(self.nodes) if isinstance(node.layer, Activation))

    @cached_property
    def neurons(self) -> int:
        """Number of activations' entries, over all layers."""
        return sum(self.nodes[i].size for i in self.activations)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Of every node's output, the activations on the longest path from it, and one for the network's output."""
        found, activations = [0] * len(self.nodes), set(self.activations)
        found[-1] = 1
        for i in range(len(self.nodes) - 1, 0, -1):
            below = found[i] + (i in activations)
            for j in self.nodes[i].inputs:
                found[j] = max(found[j], below)
        return tuple(found)

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """For every node, the nodes that read it."""
        readers: list[list[int]] = [[] for _ in self.nodes]
        for i, node in enumerate(self.nodes):
            for j in dict.fromkeys(node.inputs):
                readers[j].append(i)
        return tuple(map(tuple, readers))

    @cached_property
    def separators(self) -> tuple[int, ...]:
        """Nodes that every path from the input to the output passes, the input and the output included."""
        found, reach = [], 0  # reach: the furthest node that reads something from before the current one
        for i in range(len(self.nodes)):
            if reach <= i:
                found.append(i)
            reach = max([reach, *self.consumers[i]])
        return tuple(found)

    def run(self, x: Tensor, step: Callable[[int, tuple[Tensor, ...]], Tensor]) -> Tensor:
        """Carry `x` of shape (batch, *input_shape) through the graph; `step(i, inputs)` computes node `i`.

        Values are dropped as soon as nothing reads them any more.
        """
        values: dict[int, Tensor] = {0: x}
        for i, node in enumerate(self.nodes):
            if i == 0:
                continue
            values[i] = step(i, tuple(values[j] for j in node.inputs))
            for j in set(node.inputs):
                if self.consumers[j][-1] == i:
                    del values[j]
        return values[len(self.nodes) - 1]

    def forward(self, x: Tensor) -> Tensor:
        """The network itself, biases included."""
        return self.run(x, lambda i, inputs: self.nodes[i].layer.forward(*inputs))

    def absolute(self) -> Network:
        """The network with the magnitudes of all weights."""
        return Network(tuple(dataclasses.replace(node, layer=node.layer.absolute()) for node in self.nodes))

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Network:
        """The network with its weights in another format, or on another device."""
        return Network(tuple(dataclasses.replace(node, layer=_moved(node.layer, dtype, device)) for node in self.nodes))

    def subnetwork(self, start: int, stop: int) -> Network:
        """The part behind separator `start`, up to and including separator `stop`."""
        if (start, stop) == (0, len(self.nodes) - 1):
            return self
        return self.part(range(start, stop + 1))

    def cut(self, behind: Sequence[int]) -> Network:
        """The network in which what reads some nodes reads copies of their entries, of any sign and at most as long.

        The identity is one such copy, so every bound of the cut network is one of this network. With multipliers d of
        the copies, d_i (a_i^2 - b_i^2) >= 0: what is behind a separator sees the diagonal form diag(d) in place of what
        is before it, and LipSDP's matrix falls into blocks.

        Args:
            behind: nodes, none of them the input or the output.

        Raises:
            ValueError: a node is not one of them.
        """
        if not set(behind) <= set(range(1, len(self.nodes) - 1)):
            raise ValueError(f"Expected nodes between 1 and {len(self.nodes) - 2}, but got {sorted(behind)}.")
        index: list[int] = []
        nodes: list[Node] = []
        for i, node in enumerate(self.nodes):
            nodes.append(dataclasses.replace(node, inputs=tuple(index[j] for j in node.inputs)))
            if i in behind:
                nodes.append(Node(node.path, copies(), (len(nodes) - 1,), node.shape))
            index.append(len(nodes) - 1)
        return Network(tuple(nodes))

    @cached_property
    def pieces(self) -> tuple[tuple[int, ...], ...]:
        """The nodes of the parts between which only copies are handed on, each from what it reads to its output.

        What stands between parts, and only picks or puts together entries, is in none of them. A network that does not
        fall into parts is one.
        """
        found = {}
        for out in sorted(self._handed_on):
            nodes, reads = self._behind(out)
            if len(reads) != 1:
                return (tuple(range(len(self.nodes))),)
            found[out] = tuple(sorted(nodes))
        inside = [i for nodes in found.values() for i in nodes]
        if len(inside) > len(set(inside)) or not {0, *self.activations} <= set(inside):
            return (tuple(range(len(self.nodes))),)
        return tuple(sorted(found.values()))

    @cached_property
    def _handed_on(self) -> set[int]:
        """Outputs of parts: what copies are made of, and the network's output."""
        copied = [self.picked(i)[0] for i in self.activations if isinstance(self.nodes[i].layer, Copies)]
        found, waiting = set(), [len(self.nodes) - 1, *copied]
        while waiting:
            i = waiting.pop()
            if isinstance(self.nodes[i].layer, Mosaic):
                waiting.extend(self.nodes[i].inputs)
            else:
                found.add(i)
        return found

    def _behind(self, out: int) -> tuple[set[int], set[int]]:
        """(nodes that `out` depends on up to copies or the input, these among them; copies or the input)."""
        nodes: set[int] = set()
        reads, waiting = set(), [out]
        while waiting:
            i = waiting.pop()
            if i in nodes:
                continue
            nodes.add(i)
            if i == 0 or isinstance(self.nodes[i].layer, Copies):
                reads.add(i)
            else:
                waiting.extend(self.nodes[i].inputs)
        return nodes, reads

    def picked(self, copies: int) -> tuple[int, list[int]]:
        """What copies are copies of: (node, the crops on the way from it to them)."""
        (i,) = self.nodes[copies].inputs
        crops: list[int] = []
        while (layer := self.nodes[i].layer) and isinstance(layer, Pad) and max(layer.padding, default=1) <= 0:
            crops.insert(0, i)
            (i,) = self.nodes[i].inputs
        return i, crops

    def part(self, nodes: Sequence[int]) -> Network:
        """Some nodes as a network that reads the first of them; whatever they read is among them."""
        index = {i: k for k, i in enumerate(nodes)}
        first, *others = (self.nodes[i] for i in nodes)
        kept = [dataclasses.replace(node, inputs=tuple(index[j] for j in node.inputs)) for node in others]
        return Network((Node(first.path, Input(), (), first.shape), *kept))

    def compared(self, i: int) -> tuple[int, int] | None:
        """(a, b) where node i is a + relu(b - a): every entry between a's and b's, its square below a^2 + b^2.

        That is said of differences, of any activation with slopes in [0, 1]; with a ReLU it is the larger of the two.
        """
        nodes = self.nodes
        if not (isinstance(nodes[i].layer, Add) and len(nodes[i].inputs) == 2):
            return None
        a, excess = nodes[i].inputs
        bent = nodes[excess].layer
        if not (isinstance(bent, Activation) and bent.alpha >= 0 and bent.beta <= 1 and bent.group == 1):
            return None
        difference = nodes[nodes[excess].inputs[0]]
        if not (isinstance(difference.layer, Add) and len(difference.inputs) == 2):
            return None
        b, less = difference.inputs
        turned = nodes[less].layer
        exact = isinstance(turned, Scale) and bool((turned.scale == -1).all()) and not turned.weight_ulps
        return (a, b) if exact and nodes[less].inputs == (a,) else None

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Which function is certified where that is not plainly the module's, each with the layers that say so."""
        paths: dict[str, list[str]] = {}
        for node in self.nodes:
            own = node.layer.note if isinstance(node.layer, (Activation, Linear)) else ""
            for note in filter(None, (own, node.note)):
                paths.setdefault(note, []).append(node.path)
        return tuple(f"{', '.join(dict.fromkeys(where))}: {note}" for note, where in paths.items())

    @cached_property
    def architecture(self) -> str:
        """Digest of everything but the weights: two networks of one architecture can share a partition plan."""
        return _digest(self, weights=False)

    @cached_property
    def digest(self) -> str:
        """Digest of the architecture, of every weight and bias and of what activations hold.

        It names the function that a bound belongs to.
        """
        return _digest(self, weights=True)


def _moved(layer: Layer, dtype: torch.dtype, device: torch.device | str) -> Layer:
    tensors = {
        field.name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
        for field in dataclasses.fields(layer)
        if isinstance(value := getattr(layer, field.name), Tensor)
    }
    return dataclasses.replace(layer, **tensors) if tensors else layer


def _digest(network: Network, *, weights: bool) -> str:
    state = hashlib.sha256()
    for node in network.nodes:
        state.update(repr((type(node.layer).__name__, node.inputs, node.shape)).encode())
        for field in dataclasses.fields(node.layer):
            if field.name == "note":  # words about the function, not a part of it
                continue
            try:
                found = described(getattr(node.layer, field.name), weights)
            except Exception as error:  # whatever an object of the user's raises where its state is asked for
                raise InvalidNetworkError(
                    f"{node.path}: it holds something that cannot be written down, so no certificate can name this "
                    f"network ({error}). Keep numbers, tensors, modules and functions in it only."
                ) from error
            state.update(repr((field.name, found)).encode())
    return state.hexdigest()


def reaches_without_activation(network: Network, sources: Sequence[int]) -> set[int]:
    """Nodes that read one of `sources` through affine layers only, the first activations or the output included."""
    reached = set(sources)
    for i, node in enumerate(network.nodes):
        if any(j in reached and (j in sources or j not in network.activations) for j in node.inputs):
            reached.add(i)
    return reached - set(sources)
