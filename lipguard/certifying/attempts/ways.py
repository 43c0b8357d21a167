"""Which way a block is proved, and what surrounds every one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from lipguard.certifying.attempts import dense, ladder, tiles
from lipguard.certifying.budget import Budget
from lipguard.certifying.proposals import Proposals
from lipguard.certifying.standing import Standing
from lipguard.certifying.subject import Subject

Way: TypeAlias = Callable[[Subject, Proposals, Standing, Budget], Standing]
_OF_ONE_LMI: Mapping[str, Way] = {"dense": dense.prove, "sparse": ladder.prove, "randomised": ladder.prove}


def begun(subject: Subject, proposals: Proposals, standing: Standing) -> Standing:
    """Before a proof, with what there is to say of what it starts from."""
    if subject.has_lmi:
        return standing.begun(proposals.ends or ("not solved",))
    if not subject.parts and subject.product > 0 and subject.might_gain:
        return standing.begun(("no LMI of it fits into memory or time; the product of norms",))
    return standing


def prove(subject: Subject, proposals: Proposals, standing: Standing, budget: Budget) -> Standing:
    """The best bound that the proposals, or else the last multipliers, prove; at worst what there is.

    Args:
        subject: the block; it has an LMI.
        proposals: for its parts.
        standing: what is proved so far, `begun`.
        budget: after which nothing is begun that is not done soon.
    """
    way = tiles.prove if subject.block.kind == "tiles" else _OF_ONE_LMI[subject.block.proof]
    return way(subject, proposals, standing, budget).ended(subject, proposals)
