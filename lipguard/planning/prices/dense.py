"""What a dense proof takes."""

from __future__ import annotations

from lipguard.planning.machine import CostModel
from lipguard.planning.prices.price import Proof
from lipguard.trusted.network.graph import Network

_FACTORISATIONS = 40.0  # in whose time a dense proof finds and proves its smallest rho


def dense_price(network: Network, cost: CostModel) -> Proof:
    """Of the network as one LMI."""
    n = float(network.neurons + network.nodes[0].size)
    seconds = cost.factor("dense") * (_FACTORISATIONS * n**3 / 3 / cost.flops + 1e-7 * n * n)
    return Proof("dense", seconds, 8 * 10 * n * n)
