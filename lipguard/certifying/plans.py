"""The plan of a certification: the last one, or a new one."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import torch

from lipguard.certifying.budget import Budget
from lipguard.certifying.request import Request
from lipguard.config import DCPConfig
from lipguard.errors import CertificateError
from lipguard.planning.plan import PartitionPlan, settings_of
from lipguard.planning.search import find_plan
from lipguard.proposing.power import run as power
from lipguard.proposing.power.options import PowerOptions
from lipguard.trusted.certificate.blocks import Partition
from lipguard.trusted.network.graph import Network

_ROUGH, _ROUGH_STEPS = 1e-4, 60  # where the value of a relaxation only decides between plans


def new_plan(network: Network, budget: Budget) -> PartitionPlan:
    """The best one that the search finds in its share of the budget.

    Raises:
        ConfigError: the settings do not fit the network.
    """
    return _searched(network, budget, budget.end_of_search)


def plan_for(network: Network, request: Request, budget: Budget) -> PartitionPlan:
    """That of the warm start, where it is one of this network and for these settings; or else a new one.

    Raises:
        ConfigError: as `new_plan`.
    """
    end = budget.end_of_search
    if request.warm is not None:
        known = request.warm.plan
        try:
            (known or request.warm.certificate.plan).check(network)
        except CertificateError:
            return _searched(network, budget, end)
        if known is None and not request.optimise:
            known = PartitionPlan.unpriced(request.warm.certificate.plan, network)
        if known is not None and (not request.optimise or known.settings == settings_of(request.config)):
            return known
    return _searched(network, budget, end)


def have_same_blocks(one: Partition, other: Partition) -> bool:
    """Whether multipliers for one plan are such for the other."""
    places = [[(b.start, b.stop, b.kind, b.tile, b.cuts, b.grids) for b in plan.blocks] for plan in (one, other)]
    return one.architecture == other.architecture and places[0] == places[1]


def _searched(network: Network, budget: Budget, end: float) -> PartitionPlan:
    value = _value(budget.config, budget.device, end)
    return find_plan(network, budget.config, value=value, deadline=end)


def _value(config: DCPConfig, device: torch.device | str, deadline: float) -> Callable[[Network], float]:
    """A few steps of the power iteration: what the relaxation of a network is worth, roughly; by a deadline.

    Where there is no time for a step the value is not a number.
    """
    options = PowerOptions(
        tolerance=_ROUGH, max_iterations=_ROUGH_STEPS, seed=config.seed, dtype=torch.float32, device=device,
        tied=config.multipliers == "channel",
    )  # fmt: skip

    def value(network: Network) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            return math.nan
        limited = options if left == math.inf else dataclasses.replace(options, max_seconds=left)
        return power.propose(network, limited).value

    return value
