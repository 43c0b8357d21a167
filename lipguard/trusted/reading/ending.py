"""The end of a classifier: a softmax is left out, and the network is that of the logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from lipguard.trusted.layers import Activation, Pick, Reshape, Scale, groups
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
    if first == 0:
        return network  # there is nothing else
    kept, tail = nodes[: logits + 1], nodes[end + 1 :]
    if _is_nothing([*nodes[first + 1 : logits + 1], *tail], nodes[first].shape):
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


def _is_nothing(moves: Sequence[Node], shape: tuple[int, ...]) -> bool:
    """Whether some moves leave every entry of a value where it is."""
    numbers = torch.arange(1, torch.Size(shape).numel() + 1, dtype=torch.float64).reshape(1, *shape)
    found = numbers
    for node in moves:
        found = node.layer.linear(found)
    return found.shape == numbers.shape and torch.equal(found, numbers)
