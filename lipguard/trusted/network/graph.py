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
from lipguard.trusted.layers import Activation, Bilinear, Layer, Linear, Ranged, Shape
from lipguard.trusted.network.digest import described


@dataclass(frozen=True, eq=False)
class Node:
    """One use of a layer. A module that is called twice makes two nodes.

    `note` says which function is meant, where weights are not simply tensors that the module holds. `line` is where
    the model's code calls it, as FILE:NUMBER.
    """

    path: str
    layer: Layer
    inputs: tuple[int, ...]  # indices of earlier nodes
    shape: Shape  # of one sample, without the batch axis
    note: str = ""
    line: str = ""

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
    def steep(self) -> tuple[int, ...]:
        """Nodes that have no constant of their own: products, and activations whose slopes grow without bound."""
        return tuple(
            i
            for i, node in enumerate(self.nodes)
            if isinstance(node.layer, Bilinear) or (isinstance(node.layer, Ranged) and not node.layer.has_constant)
        )

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
