"""One claim of a block that is one LMI, and its proof."""

from __future__ import annotations

from lipguard.certifying.budget import Budget
from lipguard.certifying.hints import HINTS
from lipguard.certifying.standing import Array, Standing
from lipguard.certifying.subject import Subject
from lipguard.trusted.proofs.claim import Claim, Means
from lipguard.trusted.proofs.kinds import errs, proves


def holds(subject: Subject, claim: Claim, budget: Budget) -> bool:
    """Whether a claim can be proved.

    Raises:
        OutOfTimeError: a proof that can be stopped would end after the deadline.
    """
    freed = subject.freed[0] if claim.kind == "dense" else None
    return proves(claim, subject.parts[0], Means(HINTS, freed, budget.deadline, budget.device))


def claim_of(subject: Subject, t: Array, rho: float, clearance: float = 0.0) -> Claim:
    """That multipliers prove sqrt(rho), by the kind of proof that the plan has."""
    kind = subject.block.proof
    return Claim(t, rho, kind, clearance, subject.chance if errs(kind) else 0.0)


def claimed(
    subject: Subject, standing: Standing, t: Array, rho: float, budget: Budget, clearance: float = 0.0
) -> Standing | None:
    """The standing after a proof of sqrt(rho); None where it fails, or would prove no less than there is.

    Raises:
        OutOfTimeError: as `holds`.
    """
    if standing.reaches(rho):
        return None
    claim = claim_of(subject, t, rho, clearance)
    return standing.with_claim(claim) if holds(subject, claim, budget) else None
