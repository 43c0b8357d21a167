"""The whole network as one LMI, for the power iteration: as it is, or cut where that loses least."""

from __future__ import annotations

import math
from collections.abc import Callable

from lipguard.config import DCPConfig
from lipguard.planning.cuts import Cuts, candidates, chosen_cuts, segments
from lipguard.planning.gains import is_one_map
from lipguard.planning.machine import CostModel
from lipguard.planning.plan import PlannedBlock
from lipguard.planning.prices.iteration import iteration_seconds, which_multipliers
from lipguard.planning.prices.kinds import IN_PIECES, choose_proof, seconds_in_pieces
from lipguard.planning.prices.price import Price
from lipguard.trusted.network.cutting import pieces_of
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.tiling import lmi_sizes
from lipguard.trusted.network.unfolding import WHOLE
from lipguard.trusted.proofs.order import NoOrderError

Value = Callable[[Network], float]
# What a joint LMI gains over the product of norms, per activation layer inside it (CNN1's convolutions).
GAIN = 0.66
_NO_CUTS = Cuts((), (), 0.0)


def whole_by_power(network: Network, config: DCPConfig, cost: CostModel, deadline: float) -> PlannedBlock | None:
    """The whole network as one block: the power iteration needs no matrix, and one proof loses less than several."""
    if not network.activations:  # one norm: nothing is cut, and no solver is needed
        if is_one_map(network):
            return None
    elif config.solver != "power" or config.partition not in ("auto", "none"):
        return None
    proof = choose_proof(network, config, cost, deadline=deadline)
    if proof is None:
        return None
    return _one_lmi(network, network, config, cost, proof)


def cut_by_power(
    network: Network, config: DCPConfig, cost: CostModel, value: Value | None, deadline: float
) -> PlannedBlock | None:
    """One block that is cut, and in tiles, where it loses least, so that sparse proofs of the pieces fit."""
    by_power = config.solver == "power" and config.partition == "auto" and bool(network.activations)
    if not by_power or config.proof not in ("auto", IN_PIECES):
        return None
    budget = math.inf
    if config.max_seconds is not None:
        iterations = iteration_seconds(network, cost)
        budget = 0.8 * config.max_seconds - 2 * iterations
        if len(candidates(network)) * iterations > 0.2 * config.max_seconds:
            value = None  # there is no time to ask
    hurried = config.max_seconds is not None
    found = segments(
        network, lambda part: seconds_in_pieces(part, config, cost, deadline), config.partition_factors, hurried
    )
    chosen = chosen_cuts(network, found, value, budget)
    if chosen is None:
        return None
    own = chosen.apply(network)
    try:
        seconds = seconds_in_pieces(own, config, cost, deadline)
    except NoOrderError:
        return None
    if seconds is None or len(pieces_of(own)) == 1:
        return None
    places = ", ".join(network.nodes[i].path for i in chosen.behind)
    reason = f"a diagonal form behind {places or 'nothing'}: {math.expm1(chosen.loss):+.1%} predicted"
    return _one_lmi(network, own, config, cost, Price(IN_PIECES, seconds, 0.0, reason=reason), chosen)


def _one_lmi(
    network: Network, own: Network, config: DCPConfig, cost: CostModel, proof: Price, cuts: Cuts = _NO_CUTS
) -> PlannedBlock:
    """The block of a whole network, given as it is and as it is cut."""
    last = len(network.nodes) - 1
    _, rows = lmi_sizes(own, [node.size for node in own.nodes])
    multipliers = which_multipliers(network, config, cost, own)
    seconds = iteration_seconds(own, cost, multipliers) + proof.seconds
    names = own.nodes[1].path, own.nodes[-1].path
    ratio = min(GAIN ** len(network.activations) * math.exp(cuts.loss), 1.0)
    grids = cuts.grids if any(grid != WHOLE for grid in cuts.grids) else ()
    tiles = sum(math.prod(grid) for grid in grids) or 1
    return PlannedBlock(
        0, last, "whole", None, proof.kind, cuts.behind, grids, layers=names, variables=(rows,), tiles=tiles,
        ratio=ratio, seconds=seconds, reason=proof.reason, multipliers=multipliers,
    )  # fmt: skip
