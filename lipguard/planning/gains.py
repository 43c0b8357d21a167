"""Where one LMI may prove less than the product of norms."""

from __future__ import annotations

from lipguard.trusted.layers import Activation, Conv2d, Input, Linear, Pick, Reshape
from lipguard.trusted.network.graph import Network


def might_gain(network: Network) -> bool:
    """Whether an LMI of a network may prove less than its product of norms.

    There is an activation between weights, or weights follow each other without one: the largest singular vectors of
    maps in a row are seldom the same. A single map's norm is proved as what it is.
    """
    return not is_one_map(network) if not network.activations else _bends(network) or has_run(network)


def has_run(network: Network) -> bool:
    """Whether matrices follow each other with no activation between them."""
    behind: list[bool] = []  # whether the node's value is one of a matrix, through no activation
    for node in network.nodes:
        arriving = any(behind[j] for j in node.inputs)
        if arriving and isinstance(node.layer, (Conv2d, Linear)):
            return True
        behind.append(not isinstance(node.layer, Activation) and (arriving or isinstance(node.layer, (Conv2d, Linear))))
    return False


def is_one_map(network: Network) -> bool:
    """Whether a network without activations does one thing only, beside putting entries in another order first."""
    acting = [node.layer for node in network.nodes if not isinstance(node.layer, (Input, Reshape))]
    while acting and isinstance(acting[0], Pick) and acting[0].most <= 1:
        acting.pop(0)
    return len(acting) <= 1


def _bends(network: Network) -> bool:
    """Whether an activation stands between weights."""
    weights, bent = False, False
    for node in network.nodes:
        if isinstance(node.layer, Activation):
            bent = weights
        elif isinstance(node.layer, (Conv2d, Linear)):
            weights = True
            if bent:
                return True
    return False
