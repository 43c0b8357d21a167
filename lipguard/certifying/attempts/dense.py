"""One LMI that is written out: what multipliers prove is known before it is proved."""

from __future__ import annotations

from lipguard.certifying.attempts.chosen import chosen
from lipguard.certifying.attempts.claims import claimed
from lipguard.certifying.budget import Budget
from lipguard.certifying.proposals import Proposals
from lipguard.certifying.standing import Standing
from lipguard.certifying.subject import Subject
from lipguard.trusted.proofs.cholesky import slacks
from lipguard.trusted.proofs.tiles import SMALLEST_FORM


def prove(subject: Subject, proposals: Proposals, standing: Standing, budget: Budget) -> Standing:
    """The smallest rho for the multipliers, numerically, and a little above it."""
    if budget.are_proofs_over(subject.is_small):
        return standing.late()
    best = chosen(subject, proposals, 0, budget)
    if best is None:
        return standing
    t, norm = best
    for slack in slacks(subject.freed[0].n_x + subject.freed[0].neurons):
        if budget.are_proofs_over(subject.is_small):
            return standing.late()
        found = claimed(subject, standing, t, norm * (1 + slack) + SMALLEST_FORM, budget)
        if found is not None:
            return found
    return standing
