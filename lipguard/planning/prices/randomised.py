"""What a randomised proof takes."""

from __future__ import annotations

import math

from lipguard.config import DCPConfig
from lipguard.planning.machine import CostModel
from lipguard.planning.prices.passes import APPLICATION, lanczos_steps, pass_seconds
from lipguard.planning.prices.price import Proof
from lipguard.trusted.network.graph import Network

VECTORS = 4  # of a randomised proof
# Its clearance costs the bound 1.2 times itself per layer, and time as its inverse square root: in all so many
# tolerances, within what is worth its time; and the largest where time is short.
_LOSS, _LEAST_CLEARANCE, _MOST_CLEARANCE, LARGEST_CLEARANCE = 2.0, 0.2, 0.4, 0.3


def randomised_clearance(network: Network, tolerance: float) -> float:
    """What the smallest eigenvalue of the scaled matrix is to be, for a randomised proof where time does not count."""
    share = _LOSS / (1.2 * max(network.depths))
    return tolerance * min(max(share, _LEAST_CLEARANCE), _MOST_CLEARANCE)


def randomised_price(network: Network, config: DCPConfig, cost: CostModel) -> Proof:
    """Of the network as one LMI."""
    variables = float(sum(node.size for node in network.nodes))
    # The degree of the polynomial (`lipguard.trusted.proofs.randomised`).
    share = (config.failure_probability or 1e-12) ** (1 / VECTORS) / math.sqrt(2 * variables / math.pi)
    clearance = randomised_clearance(network, config.tolerance)
    steps = math.acosh(max(3 / share, 1.0)) / (2 * math.asinh(math.sqrt(clearance / 2)))
    seconds = cost.factor("randomised") * (steps + min(lanczos_steps(network, config.tolerance), steps) / VECTORS)
    seconds *= pass_seconds(network, cost, APPLICATION)
    return Proof("randomised", seconds, 8 * 30 * VECTORS * variables)
