"""The clearance that a randomised proof is to count on: a larger one costs tightness and saves time."""

from __future__ import annotations

import logging
import math

from lipguard.certifying.budget import FEWEST_VECTORS, Budget
from lipguard.certifying.proposals import Proposals
from lipguard.certifying.subject import Subject
from lipguard.planning.prices.randomised import LARGEST_CLEARANCE, randomised_clearance
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.proofs.randomised import VECTORS, OutOfTimeError, course, largest_loss

_LOG = logging.getLogger(__name__)
_BESIDE = 28  # vectors that go through the matrix before a randomised proof, and in it beside the recurrence
_SHARE = 0.6  # of the time that is left, which the proof is to take: what is predicted of it is rough


def affordable(subject: Subject, form: ScaledForm, unit: float, budget: Budget, least: float = 0.0) -> float:
    """A share of the tolerance, or more where most of the time left would not do.

    Args:
        subject: the block.
        form: the matrix.
        unit: seconds that a vector takes through it; 0 where time does not count.
        budget: how much is left.
        least: that it may be.

    Returns:
        The clearance; infinite where not even the largest leaves enough time.
    """
    clearance = max(randomised_clearance(subject.parts[0], subject.config.tolerance), least)
    if not unit:
        return clearance
    p = subject.chance
    least_of_all = course(form, LARGEST_CLEARANCE, p, 2.0, 0.0)
    if least_of_all is None or unit * least_of_all[0] * least_of_all[1] > budget.left:
        return math.inf
    lost = largest_loss(form)
    needed = math.inf
    while clearance < LARGEST_CLEARANCE:
        found = course(form, clearance, p, 2.0, lost)
        needed = math.inf if found is None else unit * (found[0] * found[1] + _BESIDE)
        if needed <= _SHARE * budget.left:
            return clearance
        clearance *= 1.25
    return clearance if needed <= budget.left else math.inf


def hurried(
    subject: Subject, form: ScaledForm, step: float, clearance: float, late: OutOfTimeError, budget: Budget
) -> tuple[float, float]:
    """(step, clearance) of a proof that takes less time than the one that would have been late."""
    wider = affordable(subject, form, late.seconds / VECTORS[0], budget, 1.25 * clearance)
    gain = 1 - (1 + step) ** -0.5 + 1.2 * (wider - clearance)
    _LOG.info("A proof with a clearance of %.2g would be late; trying %.2g.", clearance, wider)
    return ((1 - gain) ** -2 - 1, wider) if wider <= 1.25 * LARGEST_CLEARANCE else (math.inf, wider)


def is_hopeless(subject: Subject, proposals: Proposals, budget: Budget) -> bool:
    """Whether even a proof of the largest clearance would be late, by what the iteration took."""
    steps = sum(proposal.iterations for proposal in proposals.found)
    if subject.block.proof != "randomised" or not subject.by_power or not budget.is_limited or not steps:
        return False
    vectors = max(len(proposal.state.get("x", (0,))) for proposal in proposals.found)
    return FEWEST_VECTORS * proposals.seconds / steps / vectors > 2 * budget.left
