"""The smallest bound that multipliers prove."""

from __future__ import annotations

import math
import time

from lipguard.certifying.attempts.claims import claim_of, claimed, holds
from lipguard.certifying.budget import Budget
from lipguard.certifying.proposals import Proposals
from lipguard.certifying.standing import Standing
from lipguard.certifying.subject import Subject

_LARGEST, _MOST_BISECTIONS = 6_000, 16  # rows up to which the smallest rho is sought, in so many proofs


def is_worth_it(subject: Subject, proposals: Proposals, standing: Standing) -> bool:
    """Whether something was proved, another proof takes little, and it is not to be done again soon."""
    wanted = subject.block.proof == "sparse" and subject.rows <= _LARGEST and subject.warm is None
    return wanted and bool(standing.multipliers) and proposals.value > 0


def prove(subject: Subject, proposals: Proposals, standing: Standing, budget: Budget) -> Standing:
    """The smallest rho that the multipliers prove, to a hundredth of the tolerance.

    The value of the relaxation is below it. What is claimed is a little above the smallest that was accepted, so
    that another machine's rounding accepts it, too.
    """
    (t,), low, high = standing.multipliers, (proposals.value * (1 - 1e-9)) ** 2, standing.rho
    longest = 0.0
    for _ in range(_MOST_BISECTIONS):
        now = time.monotonic()  # one more and the last one, which keeps what it found, are to end in time
        if high <= low * (1 + subject.config.tolerance / 50) or now + 2 * longest > budget.deadline:
            break
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds(subject, claim_of(subject, t, middle), budget) else (middle, high)
        longest = max(longest, time.monotonic() - now)
    found = claimed(subject, standing, t, high * (1 + 2e-7), budget)
    return (standing if found is None else found).ended(subject, proposals)
