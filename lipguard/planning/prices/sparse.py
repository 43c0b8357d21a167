"""What a sparse proof takes, piece by piece."""

from __future__ import annotations

from lipguard.config import DCPConfig
from lipguard.planning.machine import CostModel
from lipguard.planning.orders.elimination import elimination_of, operations
from lipguard.planning.prices.passes import LARGE, TOGETHER, application_seconds, lanczos_steps, multiplications
from lipguard.planning.prices.price import Estimate
from lipguard.trusted.network.cutting import part_of, pieces_of
from lipguard.trusted.network.graph import Network

_SEARCH = 1.7e-5  # seconds per neuron that an order of elimination takes
_LEAST = 0.01  # seconds
_SECONDS_PER_ENTRY = 1e-7  # to assemble the matrix
_BYTES_PER_ENTRY, _KEPT_PER_ENTRY = 45.0, 24.0  # while it is assembled, and factored


def search_seconds(network: Network) -> float:
    """What the search for an order of elimination takes, without which there is no price."""
    return _SEARCH * network.neurons


def estimate(network: Network, config: DCPConfig, cost: CostModel, deadline: float) -> Estimate:
    """Of a network as one LMI, or as one for each of its pieces.

    Raises:
        NoOrderError: no order of elimination is found before the deadline, of `time.monotonic()`.
    """
    seconds, largest = _LEAST, 0
    for piece in pieces(network):
        elimination = elimination_of(piece, deadline)
        seconds += operations(elimination) / cost.flops + _SECONDS_PER_ENTRY * _entries(piece)
        largest = max(largest, elimination.largest)
    if network.neurons > LARGE:
        seconds += lanczos_steps(network, config.tolerance) / TOGETHER * application_seconds(network, cost)
    too_large = config.max_block_size is not None and largest > config.max_block_size
    return Estimate(seconds, sparse_bytes(network), too_large)


def sparse_bytes(network: Network) -> float:
    """Predicted peak of a sparse proof, beside the network."""
    return max(_piece_bytes(piece) for piece in pieces(network))


def least_bytes(piece: Network) -> float:
    """What the proof of a piece takes in any order of elimination: to assemble its matrix."""
    return _BYTES_PER_ENTRY * _entries(piece)


def pieces(network: Network) -> list[Network]:
    """What a sparse proof works on, one after the other."""
    if len(pieces_of(network)) == 1:
        return [network]
    return [part_of(network, nodes) for nodes in pieces_of(network) if len(nodes) > 1]


def _piece_bytes(piece: Network) -> float:
    return max(elimination_of(piece).bytes + _KEPT_PER_ENTRY * _entries(piece), least_bytes(piece))


def _entries(piece: Network) -> float:
    """Of its sparse matrix, at most."""
    return multiplications(piece) + piece.neurons
