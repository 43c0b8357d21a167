"""What a sparse proof takes."""

from __future__ import annotations

import math

from lipguard.config import DCPConfig
from lipguard.planning.machine import CostModel
from lipguard.planning.orders.elimination import elimination_of, operations
from lipguard.planning.prices.passes import APPLICATION, LARGE, lanczos_steps, multiplications, pass_seconds
from lipguard.planning.prices.price import Proof
from lipguard.planning.prices.randomised import VECTORS
from lipguard.trusted.network.graph import Network

_SECONDS_PER_ENTRY = 1e-7  # to assemble a sparse matrix
BYTES_PER_ENTRY, _KEPT_PER_ENTRY = 45.0, 24.0  # while it is assembled, and factored


def sparse_price(network: Network, config: DCPConfig, cost: CostModel, deadline: float = math.inf) -> Proof:
    """Of the network as one LMI, or as one per piece.

    Raises:
        NoOrderError: no order of elimination is found before the deadline.
    """
    seconds = 0.01
    for piece in pieces(network):
        seconds += operations(elimination_of(piece, deadline)) / cost.flops + _SECONDS_PER_ENTRY * entries(piece)
    if network.neurons > LARGE:
        seconds += lanczos_steps(network, config.tolerance) / VECTORS * pass_seconds(network, cost, APPLICATION)
    return Proof("sparse", cost.factor("sparse") * seconds, sparse_bytes(network))


def sparse_bytes(network: Network) -> float:
    """Predicted peak of a sparse proof, beside the network."""
    return max(_piece_bytes(piece) for piece in pieces(network))


def _piece_bytes(piece: Network) -> float:
    count = entries(piece)
    return max(elimination_of(piece).bytes + _KEPT_PER_ENTRY * count, BYTES_PER_ENTRY * count)


def entries(piece: Network) -> float:
    """Of its sparse matrix, at most."""
    return multiplications(piece) + piece.neurons


def pieces(network: Network) -> list[Network]:
    """What a sparse proof works on, one after the other."""
    if len(network.pieces) == 1:
        return [network]
    return [network.part(nodes) for nodes in network.pieces if len(nodes) > 1]
