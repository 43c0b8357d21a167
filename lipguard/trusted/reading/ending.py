"""The end of a classifier: a softmax is left out, and the network is that of the logits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lipguard.trusted.layers import Activation, Pick, Reshape, Scale, Shape, groups
from lipguard.trusted.network.graph import Network, Node

_NOTE = "the bound is one of the logits: the softmax at the end is left out"


def logits_of(network: Network) -> Network:
    """The network without a softmax, or a log-softmax, that is the last thing it does; the network itself without one.

    It moves no entry past another, and differences of log-probabilities are those of the logits: so what is predicted,
    and how far it is from being another class, are the same.
    """
    nodes = network.nodes
    last = len(nodes) - 1
    end = _start_of_moves(nodes, last)  # what only moves entries behind it
    bent = end - 1
    if not (isinstance(nodes[end].layer, Scale) and nodes[end].inputs == (bent,)):
        return network
    layer = nodes[bent].layer
    if not (isinstance(layer, Activation) and groups.is_softmax(layer)):
        return network
    (logits,) = nodes[bent].inputs
    first = _start_of_moves(nodes, logits)
    kept, tail = nodes[: logits + 1], nodes[end + 1 :]
    if first == 0 or not torch.equal(_numbers(tail, nodes[end].shape).sort().values, _order(nodes[end].shape)):
        return network  # there is nothing else, or what is made of probabilities is not all of them
    if nodes[first].shape == nodes[last].shape:
        moves = [*nodes[first + 1 : logits + 1], *tail]
        if torch.equal(_numbers(moves, nodes[first].shape), _order(nodes[first].shape)):
            kept, tail = nodes[: first + 1], ()
    moved = [dataclasses.replace(node, inputs=(len(kept) - 1 + k,)) for k, node in enumerate(tail)]
    *before, output = (*kept, *moved)
    note = f"{output.note}; {_NOTE}" if output.note else _NOTE
    return Network((*before, dataclasses.replace(output, note=note)))


def _start_of_moves(nodes: Sequence[Node], last: int) -> int:
    """The node behind which, up to a last one, entries are only moved, one node after the other."""
    while last and isinstance(nodes[last].layer, (Pick, Reshape)) and nodes[last].inputs == (last - 1,):
        last -= 1
    return last


def _order(shape: Shape) -> Tensor:
    return torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)


def _numbers(moves: Sequence[Node], shape: Shape) -> Tensor:
    """Where some moves put the entries of a value, by their numbers from 1."""
    found = _order(shape).reshape(1, *shape)
    for node in moves:
        found = node.layer.linear(found)
    return found.flatten()
