"""What a dense proof takes."""

from __future__ import annotations

from lipguard.config import DCPConfig
from lipguard.planning.machine import CostModel
from lipguard.planning.prices.price import Estimate
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.tiling import proof_size
from lipguard.trusted.proofs.tiles import LARGEST_MATRIX

_FACTORISATIONS = 40.0  # in whose time a dense proof finds and proves its smallest rho
_BESIDE = 1e-7  # of what is beside them
_MATRICES = 10  # of the LMI's size, at once


def estimate(network: Network, config: DCPConfig, cost: CostModel, deadline: float) -> Estimate:
    """Of a network as one LMI, by its rows; there is nothing to be found before a deadline."""
    n = float(network.neurons + network.nodes[0].size)
    seconds = _FACTORISATIONS * n**3 / 3 / cost.flops + _BESIDE * n * n
    too_large = proof_size(network) > min(config.max_block_size or LARGEST_MATRIX, LARGEST_MATRIX)
    return Estimate(seconds, 8 * _MATRICES * n * n, too_large)
