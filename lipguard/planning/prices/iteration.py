"""What the power iteration takes, and which multipliers it looks for."""

from __future__ import annotations

import math

from lipguard.config import DCPConfig
from lipguard.planning.machine import CostModel
from lipguard.planning.prices.passes import LARGE, step_seconds
from lipguard.trusted.network.graph import Network

# Iterations of untrained networks, whose vectors are doubled once or twice; trained ones take a quarter.
_ITERATIONS, _TIED_ITERATIONS = 800, 120
SHARE_OF_ITERATION, _FEW_STEPS, _MANY_STEPS, _DEEP = 0.3, 40, 200, 8  # steps, and layers of images
_OTHER = 0.6  # seconds for norms, the lower bound, tracing and planning


def iteration_seconds(network: Network, cost: CostModel, multipliers: str = "neuron") -> float:
    """Predicted time of the power iteration, for one multiplier per "neuron", per "channel", or "both"."""
    steps = {"neuron": _ITERATIONS, "channel": _TIED_ITERATIONS, "both": _ITERATIONS + _TIED_ITERATIONS}[multipliers]
    return _OTHER + cost.factor("iteration") * steps * step_seconds(network, cost)


def which_multipliers(network: Network, config: DCPConfig, cost: CostModel, cut: Network | None = None) -> str:
    """Which the power iteration looks for: one per "neuron", one per "channel" of an image, or "both".

    Those of channels are looser by a fifth or so, and found in some thirty steps at any depth; those of neurons take
    hundreds where a network is deep and not trained, and what is proved before suffers more than that.

    Args:
        network: as it is.
        config: `multipliers` and `max_seconds` decide.
        cost: speed of this machine.
        cut: the network as it is cut, which the iteration runs on.
    """
    if config.multipliers != "auto":
        return config.multipliers
    images = [i for i in network.activations if len(network.nodes[i].shape) == 3]
    if not images or network.neurons <= LARGE:
        return "neuron"
    steps = math.inf
    if config.max_seconds is not None:
        step = cost.factor("iteration") * step_seconds(cut or network, cost)
        steps = SHARE_OF_ITERATION * config.max_seconds / step
    if steps < _FEW_STEPS:
        return "channel"
    return "both" if steps < _MANY_STEPS or len(images) >= _DEEP else "neuron"
