"""What goes through a network, or through LipSDP's form: how often, and what it takes."""

from __future__ import annotations

import math

from lipguard.planning.machine import CostModel
from lipguard.trusted.network.graph import Network

LARGE = 20_000  # neurons from which single precision serves to propose, and a proof takes seconds
# Steps of Lanczos' method before a randomised proof, and before a sparse one of a large network: what they may miss,
# the inverse square of half of them, costs the bound as much per layer; in all so many tolerances.
_MISSED, FEWEST_STEPS, _MOST_STEPS = 2.0, 100, 300
# A step of the power iteration with eight vectors of single precision, and LipSDP's form applied to four of double: in
# seconds per layer, and in operations per entry and per multiplication of a forward pass. Fitted to nine networks of 9
# to 36 layers, 5e3 to 3e6 entries and 4e5 to 8e8 multiplications, which they meet within a third.
_STEP, _APPLICATION = (9e-5, 3900.0, 5.3), (6e-5, 2400.0, 18.0)
TOGETHER = 4  # vectors, in an application


def step_seconds(network: Network, cost: CostModel) -> float:
    """Predicted time of a step of the power iteration, before what was learned of this machine."""
    return _seconds(network, cost, _STEP)


def application_seconds(network: Network, cost: CostModel) -> float:
    """Predicted time in which `TOGETHER` vectors pass through LipSDP's form."""
    return _seconds(network, cost, _APPLICATION)


def lanczos_steps(network: Network, tolerance: float) -> int:
    """How many steps of Lanczos' method see all but what costs the bound little, where time does not count."""
    steps = math.ceil(2 * math.sqrt(max(network.depths) / (_MISSED * tolerance)))
    return min(max(steps, FEWEST_STEPS), _MOST_STEPS)


def multiplications(network: Network) -> float:
    """Multiplications of a forward pass."""
    return sum(node.layer.multiplications(node.shape) for node in network.nodes)


def _seconds(network: Network, cost: CostModel, price: tuple[float, float, float]) -> float:
    """Of a forward and a backward pass, at a price per layer, entry and multiplication."""
    entries = sum(node.size for node in network.nodes)
    return price[0] * len(network.nodes) + (price[1] * entries + price[2] * multiplications(network)) / cost.flops
