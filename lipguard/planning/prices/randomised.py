"""What a randomised proof takes."""

from __future__ import annotations

from lipguard.config import DCPConfig
from lipguard.planning.machine import CostModel
from lipguard.planning.prices.passes import TOGETHER, application_seconds, lanczos_steps
from lipguard.planning.prices.price import Estimate
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs.randomised import VECTORS, steps_needed

# Its clearance costs the bound 1.2 times itself per layer, and time as its inverse square root: in all so many
# tolerances, within what is worth its time; and the largest where time is short.
_LOSS, _LEAST_CLEARANCE, _MOST_CLEARANCE, LARGEST_CLEARANCE = 2.0, 0.2, 0.4, 0.6
_TOP = 2.0  # where the spectrum of a chain's scaled matrix ends
_COPIES = 30  # of the vectors, over all nodes, at once


def estimate(network: Network, config: DCPConfig, cost: CostModel, deadline: float) -> Estimate:
    """Of a network as one LMI, by the degree of its polynomial; there is nothing to be found before a deadline."""
    variables = sum(node.size for node in network.nodes)
    clearance = randomised_clearance(network, config.tolerance)
    probability = config.failure_probability or DCPConfig.failure_probability
    degree = steps_needed(variables, clearance, _TOP, probability, VECTORS[0])
    applications = degree * VECTORS[0] / TOGETHER + min(lanczos_steps(network, config.tolerance), degree) / TOGETHER
    seconds = applications * application_seconds(network, cost)
    return Estimate(seconds, 8.0 * _COPIES * VECTORS[0] * variables)


def randomised_clearance(network: Network, tolerance: float) -> float:
    """What the smallest eigenvalue of the scaled matrix is to be, for a randomised proof where time does not count."""
    share = _LOSS / (1.2 * max(network.depths))
    return tolerance * min(max(share, _LEAST_CLEARANCE), _MOST_CLEARANCE)
