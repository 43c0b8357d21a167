"""Tiles: the forms of all of them, merged."""

from __future__ import annotations

import dataclasses

from lipguard.certifying.attempts.chosen import chosen
from lipguard.certifying.budget import Budget
from lipguard.certifying.proposals import Proposals
from lipguard.certifying.standing import Standing
from lipguard.certifying.subject import Subject
from lipguard.trusted.certificate.verify import ProvedBlock
from lipguard.trusted.proofs.cholesky import slacks
from lipguard.trusted.proofs.tiles import prove_tiles


def prove(subject: Subject, proposals: Proposals, standing: Standing, budget: Budget) -> Standing:
    """The bound that multipliers of all tile shapes prove together, with the smallest slack that does."""
    if budget.are_proofs_over(subject.is_small):
        return standing.late()
    found = [chosen(subject, proposals, j, budget) for j in range(len(subject.parts))]
    multipliers = tuple(one[0] for one in found if one is not None)
    norms = tuple(one[1] for one in found if one is not None)
    if len(multipliers) < len(found):
        return standing
    tiling = subject.tiling()
    for slack in slacks(max(freed.n_x + freed.neurons for freed in subject.freed)):
        if budget.are_proofs_over(subject.is_small):
            return standing.late()
        proof = prove_tiles(tiling, subject.freed, multipliers, slack, subject.config.merge)
        if proof is not None:
            proved = ProvedBlock(min(proof.bound, subject.product), subject.product, proof.merges)
            new = dataclasses.replace(standing, proved=proved, multipliers=multipliers, slack=slack, norms=norms)
            return standing.better(new)
    return standing
