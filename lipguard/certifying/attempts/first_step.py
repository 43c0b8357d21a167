"""What to try first: multipliers that are nearly feasible, mended, and the enlargement that is likely to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from lipguard.certifying.attempts.clearance import affordable
from lipguard.certifying.budget import Budget
from lipguard.certifying.standing import Array
from lipguard.certifying.subject import Subject
from lipguard.planning.prices.passes import FEWEST_STEPS, lanczos_steps
from lipguard.proposing.feasible.by_layer import enlarged_as_needed
from lipguard.proposing.feasible.in_span import adjusted_in_span
from lipguard.proposing.feasible.lanczos import extreme_eigenvalues
from lipguard.proposing.feasible.uniform import enlarged_uniformly
from lipguard.proposing.proposal import Directions
from lipguard.trusted.lmi.scaled import ScaledForm

_COPIES_TO_ADJUST = 40  # of the vectors that multipliers are adjusted with
_CLEARANCE_ROUNDS = 4  # in which clearances by layer are looked for
_SHARE_OF_SEARCH = 0.4  # of the time that is left


@dataclass(frozen=True, eq=False)
class Candidate:
    """For a proof, before anything is added to it.

    Attributes:
        t: multipliers.
        rho: the square of the bound that their solver has in mind.
        directions: what they can be adjusted with.
    """

    t: Array
    rho: float
    directions: Directions | None = None


@dataclass(frozen=True, eq=False)
class Attempt:
    """At a proof: multipliers and rho, with the enlargement to begin with.

    Attributes:
        t: multipliers.
        rho: the square of the bound, before the step.
        step: of `enlarged_uniformly`.
        clearance: that a randomised proof is to count on.
        hopeful: whether the step is likely to do.
    """

    t: Array
    rho: float
    step: float
    clearance: float
    hopeful: bool


def first_step(subject: Subject, candidate: Candidate, budget: Budget) -> Attempt:
    """Multipliers adjusted, and with clearances where they are missing.

    The smallest eigenvalue grows by 1 - (1 + step)^(-1/2). How far it is below zero is estimated beforehand.
    """
    tolerance, part = subject.config.tolerance, subject.parts[0]
    t, rho, directions = candidate.t, candidate.rho, candidate.directions
    # The time that a vector takes through LipSDP's matrix, where time is short: some 40 adjust the multipliers.
    unit = budget.seconds_per_vector(ScaledForm(part, t, rho, budget.device)) if budget.is_limited else 0.0
    if directions is not None:
        large = _COPIES_TO_ADJUST * directions.values.nbytes > budget.memory
        directions = None if large or 40 * unit > 0.1 * budget.left else directions
    missing, clearance = tolerance / 4, 0.0
    if directions is not None:
        t, missing = adjusted_in_span(part, t, rho, directions, budget.device)
    if subject.block.proof == "randomised":
        clearance = affordable(subject, ScaledForm(part, t, rho, budget.device), unit, budget)
        if clearance == math.inf:
            return Attempt(t, rho, math.inf, clearance, False)
    wanted = max(1.2 * clearance, (0.02 if subject.is_small else 0.05) * tolerance)
    if subject.is_large or clearance:  # another proof would take longer than a better estimate
        seen = missing if directions is not None else 0.0
        t, rho, missing, wanted = _estimated(subject, t, rho, clearance, wanted, unit, seen, budget)
    if not missing < 0.1:
        return Attempt(t, rho, (1 - 1.2 * clearance) ** -2 - 1 if clearance else tolerance, clearance, False)
    return Attempt(t, rho, (1 - max(missing, 0.0) - wanted) ** -2 - 1, clearance, True)


def _estimated(
    subject: Subject, t: Array, rho: float, clearance: float, wanted: float, unit: float, seen: float, budget: Budget
) -> tuple[Array, float, float, float]:
    """(t, rho, missing, wanted) by Lanczos' method: with clearances by layer, where memory and time allow.

    Args:
        subject: the block.
        t: multipliers.
        rho: the square of the bound.
        clearance: of a randomised proof.
        wanted: the smallest eigenvalue that there is to be.
        unit: seconds that a vector takes through the matrix; 0 where time does not count.
        seen: what is missing at least, by another estimate.
        budget: how much is left.
    """
    tolerance, part = subject.config.tolerance, subject.parts[0]
    # What Lanczos' method may not see should be less than the clearance.
    steps = lanczos_steps(part, tolerance)
    steps = FEWEST_STEPS if unit and steps * unit > 0.1 * budget.left else steps
    steps = min(steps, int(3 / clearance**0.5) + 1) if clearance else steps
    rounds = _rounds_by_layer(subject, steps, unit, budget)
    if rounds:
        single = torch.float32 if subject.is_large else torch.float64
        limit = budget.within(_SHARE_OF_SEARCH)
        t, rho, missing = enlarged_as_needed(
            part, t, rho, wanted, steps, rounds, 3 * tolerance, budget.device, single, limit
        )
        return t, rho, missing, 0.0  # what is wanted is in what is missing
    least = max(tolerance, clearance)
    form = ScaledForm(part, *enlarged_uniformly(part, t, rho, least), budget.device)
    smallest = extreme_eigenvalues(form, steps, deadline=budget.within(_SHARE_OF_SEARCH))[0] - 4 / steps**2
    return t, rho, max(least / 2 - smallest, seen), wanted


def _rounds_by_layer(subject: Subject, steps: int, unit: float, budget: Budget) -> int:
    """How often clearances by layer are looked for, which keeps `steps` vectors: as memory and time allow."""
    part = subject.parts[0]
    if 16 * steps * (part.nodes[0].size + part.neurons) > budget.memory:
        return 0
    return min(_CLEARANCE_ROUNDS, int(0.2 * budget.left / (3 * steps * unit)) if unit else _CLEARANCE_ROUNDS)
