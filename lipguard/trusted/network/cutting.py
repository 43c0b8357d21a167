"""Parts of a network, as networks of their own: between separators, and between cuts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from lipguard.trusted.layers import Activation, Add, Copies, Input, Mosaic, Pad, Scale, copies
from lipguard.trusted.network.graph import Network, Node

Piece = tuple[int, ...]  # nodes
_known: WeakKeyDictionary[Network, tuple[Piece, ...]] = WeakKeyDictionary()  # as long as the network is in use


def subnetwork(network: Network, start: int, stop: int) -> Network:
    """The part behind separator `start`, up to and including separator `stop`."""
    if (start, stop) == (0, len(network.nodes) - 1):
        return network
    return part_of(network, range(start, stop + 1))


def cut_behind(network: Network, behind: Sequence[int]) -> Network:
    """The network in which what reads some nodes reads copies of their entries, of any sign and at most as long.

    The identity is one such copy, so every bound of the cut network is one of the network. With multipliers d of
    the copies, d_i (a_i^2 - b_i^2) >= 0: what is behind a separator sees the diagonal form diag(d) in place of what
    is before it, and LipSDP's matrix falls into blocks.

    Args:
        network: the network.
        behind: nodes, none of them the input or the output.

    Raises:
        ValueError: a node is not one of them.
    """
    if not set(behind) <= set(range(1, len(network.nodes) - 1)):
        raise ValueError(f"Expected nodes between 1 and {len(network.nodes) - 2}, but got {sorted(behind)}.")
    index: list[int] = []
    nodes: list[Node] = []
    for i, node in enumerate(network.nodes):
        nodes.append(dataclasses.replace(node, inputs=tuple(index[j] for j in node.inputs)))
        if i in behind:
            nodes.append(Node(node.path, copies(), (len(nodes) - 1,), node.shape))
        index.append(len(nodes) - 1)
    return Network(tuple(nodes))


def pieces_of(network: Network) -> tuple[Piece, ...]:
    """The nodes of the parts between which only copies are handed on, each from what it reads to its output.

    What stands between parts, and only picks or puts together entries, is in none of them. A network that does not
    fall into parts is one. Found once for a network.
    """
    if network not in _known:
        _known[network] = _pieces(network)
    return _known[network]


def _pieces(network: Network) -> tuple[Piece, ...]:
    found = {}
    for out in sorted(_handed_on(network)):
        nodes, reads = _behind(network, out)
        if len(reads) != 1:
            return (tuple(range(len(network.nodes))),)
        found[out] = tuple(sorted(nodes))
    inside = [i for nodes in found.values() for i in nodes]
    if len(inside) > len(set(inside)) or not {0, *network.activations} <= set(inside):
        return (tuple(range(len(network.nodes))),)
    return tuple(sorted(found.values()))


def _handed_on(network: Network) -> set[int]:
    """Outputs of parts: what copies are made of, and the network's output."""
    copied = [picked_by(network, i)[0] for i in network.activations if isinstance(network.nodes[i].layer, Copies)]
    found, waiting = set(), [len(network.nodes) - 1, *copied]
    while waiting:
        i = waiting.pop()
        if isinstance(network.nodes[i].layer, Mosaic):
            waiting.extend(network.nodes[i].inputs)
        else:
            found.add(i)
    return found


def _behind(network: Network, out: int) -> tuple[set[int], set[int]]:
    """(nodes that `out` depends on up to copies or the input, these among them; copies or the input)."""
    nodes: set[int] = set()
    reads, waiting = set(), [out]
    while waiting:
        i = waiting.pop()
        if i in nodes:
            continue
        nodes.add(i)
        if i == 0 or isinstance(network.nodes[i].layer, Copies):
            reads.add(i)
        else:
            waiting.extend(network.nodes[i].inputs)
    return nodes, reads


def picked_by(network: Network, i: int) -> tuple[int, list[int]]:
    """What the copies at node i are copies of: (node, the crops on the way from it to them)."""
    (i,) = network.nodes[i].inputs
    crops: list[int] = []
    while (layer := network.nodes[i].layer) and isinstance(layer, Pad) and max(layer.padding, default=1) <= 0:
        crops.insert(0, i)
        (i,) = network.nodes[i].inputs
    return i, crops


def part_of(network: Network, nodes: Sequence[int]) -> Network:
    """Some nodes as a network that reads the first of them; whatever they read is among them."""
    index = {i: k for k, i in enumerate(nodes)}
    first, *others = (network.nodes[i] for i in nodes)
    kept = [dataclasses.replace(node, inputs=tuple(index[j] for j in node.inputs)) for node in others]
    return Network((Node(first.path, Input(), (), first.shape), *kept))


def compared_at(network: Network, i: int) -> tuple[int, int] | None:
    """(a, b) where node i is a + relu(b - a): every entry between a's and b's, its square below a^2 + b^2.

    That is said of differences, of any activation with slopes in [0, 1]; with a ReLU it is the larger of the two.
    """
    nodes = network.nodes
    if not (isinstance(nodes[i].layer, Add) and len(nodes[i].inputs) == 2):
        return None
    a, excess = nodes[i].inputs
    found = excess_at(network, excess)
    return None if found is None or nodes[found[1]].inputs != (a,) else (a, found[0])


def excess_at(network: Network, i: int) -> tuple[int, int] | None:
    """(a, less) where node i is f(a + less), of slopes in [0, 1]; less is another node times -1, but for a shift."""
    nodes = network.nodes
    bent = nodes[i].layer
    if not (isinstance(bent, Activation) and bent.alpha >= 0 and bent.beta <= 1 and bent.group == 1):
        return None
    difference = nodes[nodes[i].inputs[0]]
    if not (isinstance(difference.layer, Add) and len(difference.inputs) == 2):
        return None
    a, less = difference.inputs
    turned = nodes[less].layer
    exact = isinstance(turned, Scale) and bool((turned.scale == -1).all()) and not turned.weight_ulps
    return (a, less) if exact else None
