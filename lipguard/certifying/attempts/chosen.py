"""Multipliers that are made feasible on matrices that are written out."""

from __future__ import annotations

from lipguard.certifying.budget import Budget
from lipguard.certifying.proposals import Proposals
from lipguard.certifying.standing import Array
from lipguard.certifying.subject import Subject
from lipguard.proposing.feasible.schur import form_norm
from lipguard.proposing.feasible.uniform import enlarged_until_feasible

Chosen = tuple[Array, float]


def chosen(subject: Subject, proposals: Proposals, j: int, budget: Budget) -> Chosen | None:
    """The proposed multipliers of part j, or the last ones where those are better, made feasible; with the norm."""
    layers = [subject.parts[j].nodes[i].size for i in subject.parts[j].activations]
    proposal = proposals.found[j] if j < len(proposals.found) else None
    value = proposal.value if proposal is not None and proposal.value > 0 else 0.0
    enough = value * value * (1 + 0.1 * subject.config.tolerance) ** 2
    end = budget.end_of_proofs(subject.is_small)

    def feasible(t: Array) -> Chosen | None:
        return enlarged_until_feasible(t, layers, lambda larger: form_norm(subject.freed[j], larger), enough, end)

    best: Chosen | None = None
    if proposal is not None and proposal.multipliers is not None:
        best = feasible(proposal.multipliers)
    if best is None or best[1] > enough:
        last = subject.warm_multipliers()
        if last:
            found = (best, feasible(last[j]))
            best = min((one for one in found if one is not None), key=lambda one: one[1], default=None)
    return best
