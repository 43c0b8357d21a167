"""The dynamic search: cuts and tiles with the smallest predicted bound whose LMIs stay within N_max.

A dynamic programme over the separators of the network. It knows the architecture and the cost model, not the weights,
so a plan is found once and reused while the network trains.
"""

from __future__ import annotations

import dataclasses
import math
import time

from lipguard.config import DCPConfig
from lipguard.errors import ConfigError
from lipguard.planning.machine import CostModel, cost_model
from lipguard.planning.plan import PartitionPlan, settings_of
from lipguard.planning.prices.kinds import explained
from lipguard.planning.programme import Programme
from lipguard.planning.whole import Value, cut_by_power, whole_by_power
from lipguard.trusted.network.graph import Network

# N_max where none is given: the usual one, and the most that a network's smallest block may ask for. Clarabel's
# interior point method factors a matrix with a row for every entry of the LMI.
_BLOCK_SIZES = {"scs": (300, 1000), "clarabel": (100, 150), "power": (2048, 4096)}
# What a search may take: a share of the budget; seconds where there is none; seconds where little is left.
SHARE_OF_SEARCH, MOST_SEARCH, LEAST_SEARCH = 0.25, 60.0, 0.3


def search_deadline(config: DCPConfig, start: float, deadline: float = math.inf) -> float:
    """When a search that belongs to a certification begun at `start` is to end, of `time.monotonic()`."""
    most = MOST_SEARCH if config.max_seconds is None else SHARE_OF_SEARCH * config.max_seconds
    return max(min(start + most, deadline), time.monotonic() + LEAST_SEARCH)


def find_plan(
    network: Network, config: DCPConfig, cost: CostModel | None = None, value: Value | None = None,
    deadline: float | None = None,
) -> PartitionPlan:  # fmt: skip
    """The plan with the smallest predicted bound within `max_block_size`, `max_memory` and `max_seconds`.

    Args:
        network: the network.
        config: the settings.
        cost: speed of this machine, measured where it is not given.
        value: of the relaxation of a network, roughly; it shows what a cut loses. None assumes the same for every cut.
        deadline: of `time.monotonic()`, at which the best plan so far has to do, or one of norms; by default
            `search_deadline` from now on.

    Raises:
        ConfigError: no LMI of the network is as small as `max_block_size`, or the partition asked for does not fit.
    """
    deadline = search_deadline(config, time.monotonic()) if deadline is None else deadline
    cost = cost or cost_model()
    plan = _find_plan(network, config, cost, value, deadline)
    if config.solver != "power" or config.partition in ("cuts", "tiles") or not network.activations:
        return plan
    lines = explained(network, config, cost, deadline)
    if any(block.cuts or block.grids for block in plan.blocks):
        lines.append(f"{plan.blocks[0].method}, {plan.blocks[0].proof} proofs, {plan.blocks[0].seconds:.1f} s: chosen")
    elif len(plan.blocks) > 1:
        lines.append(f"{len(plan.blocks)} blocks whose bounds multiply, {plan.seconds:.1f} s: chosen")
    return dataclasses.replace(plan, considered=tuple(lines))


def _find_plan(
    network: Network, config: DCPConfig, cost: CostModel, value: Value | None, deadline: float
) -> PartitionPlan:
    whole = whole_by_power(network, config, cost, deadline) or cut_by_power(network, config, cost, value, deadline)
    if whole is not None:
        return PartitionPlan(network.architecture, (whole,), settings_of(config))
    plan = _plan_within(network, config, cost, _largest_block(network, config, cost, deadline), deadline)
    if config.max_seconds is None:
        return plan
    limit = max((rows for block in plan.blocks for rows in block.variables), default=0)
    while plan.seconds > config.max_seconds and limit > 2:  # smaller and smaller blocks until the predicted time fits
        limit = int(0.8 * limit)
        search = Programme(network, config, cost, limit, deadline)
        smaller = search.plan()
        if search.is_late:  # it did not see everything; what the plan before has no time for, its proofs leave out
            break
        plan = smaller
    return plan


def _plan_within(network: Network, config: DCPConfig, cost: CostModel, limit: int, deadline: float) -> PartitionPlan:
    search = Programme(network, config, cost, limit, deadline)
    plan = search.plan()
    too_small = config.max_block_size is not None and not search.fits and math.isfinite(search.smallest)
    if too_small and not search.is_late:
        raise ConfigError(
            f"max_block_size={limit} is smaller than any block of this network can be: the smallest LMI has "
            f"{search.smallest:.0f} rows. Set max_block_size to at least that."
        )
    return plan


def _largest_block(network: Network, config: DCPConfig, cost: CostModel, deadline: float) -> int:
    """N_max: as given, or the usual one, or as much as the smallest block needs."""
    if config.max_block_size is not None:
        return config.max_block_size
    usual, largest = _BLOCK_SIZES[config.solver]
    search = Programme(network, config, cost, usual, deadline)
    search.plan()
    return usual if search.fits or search.smallest > largest else int(search.smallest)
