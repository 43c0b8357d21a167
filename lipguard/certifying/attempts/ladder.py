"""One LMI by a proof that is given a number: proposals with a larger and larger clearance, until it accepts one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from lipguard.certifying.attempts import rounds
from lipguard.certifying.attempts.claims import claimed
from lipguard.certifying.attempts.clearance import hurried, is_hopeless
from lipguard.certifying.attempts.first_step import Attempt, Candidate, first_step
from lipguard.certifying.budget import Budget
from lipguard.certifying.proposals import Proposals
from lipguard.certifying.standing import Array, Standing
from lipguard.certifying.subject import Subject
from lipguard.proposing.feasible.in_span import adjusted_in_new_span
from lipguard.proposing.feasible.uniform import enlarged_uniformly
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.proofs.randomised import OutOfTimeError

_MOST_STEP = 0.2  # of a large block, for which every proof is dear, unless it begins with a larger one


def prove(subject: Subject, proposals: Proposals, standing: Standing, budget: Budget) -> Standing:
    """The first claim that is accepted: each proof may take long, and few are needed."""
    candidates = _candidates(subject, proposals)
    if budget.are_proofs_over(subject.is_small) or is_hopeless(subject, proposals, budget):
        return standing.late()
    compared = min(len(proposals.every), len(candidates)) > 1
    for attempt in _in_order(subject, candidates, compared, budget):
        if attempt.step == math.inf:
            standing = standing.late()
        standing, is_done = _climbed(subject, attempt, proposals, standing, budget)
        if is_done:
            break
    return standing


def _candidates(subject: Subject, proposals: Proposals) -> list[Candidate]:
    found = [
        Candidate(p.multipliers, p.value**2, p.directions)
        for p in proposals.every if p.multipliers is not None and _are_usable(p.multipliers) and p.value > 0
    ]  # fmt: skip
    last = subject.warm_multipliers()
    if subject.warm is not None and last:
        found.append(Candidate(last[0], float(subject.warm.certificate.forms[subject.index].max())))
    return found


def _are_usable(multipliers: Array) -> bool:
    """Whether no multiplier is negative, infinite or none at all, as a solver's may be."""
    return bool((np.isfinite(multipliers) & (multipliers >= 0)).all())


def _in_order(subject: Subject, candidates: Sequence[Candidate], compared: bool, budget: Budget) -> Iterator[Attempt]:
    """The first two by what they are likely to prove, if asked."""
    if not compared:
        yield from (first_step(subject, candidate, budget) for candidate in candidates)
        return
    part, one = subject.parts[0], first_step(subject, candidates[0], budget)
    if one.step == math.inf:  # there is no time for one, let alone for two
        yield one
        return
    likely = enlarged_uniformly(part, one.t, one.rho, one.step)[1]
    if one.hopeful and likely <= candidates[1].rho:  # the other's value is above what this one is likely to prove
        yield one
        yield from _in_order(subject, candidates[1:], False, budget)
        return
    other = first_step(subject, candidates[1], budget)
    both = [(one, likely), (other, enlarged_uniformly(part, other.t, other.rho, other.step)[1])]
    yield from (attempt for attempt, _ in sorted(both, key=lambda pair: (not pair[0].hopeful, pair[1])))
    yield from _in_order(subject, candidates[2:], False, budget)


def _climbed(
    subject: Subject, attempt: Attempt, proposals: Proposals, standing: Standing, budget: Budget
) -> tuple[Standing, bool]:
    """The standing after all steps of one attempt, and whether the next one is not needed."""
    least, tolerance = _least(subject, proposals), subject.config.tolerance
    t, rho, step, clearance = attempt.t, attempt.rho, attempt.step, attempt.clearance
    refused, mended_now = 0, False
    limit = _limit(subject, step)
    while step < limit:
        if budget.are_proofs_over(subject.is_small):
            return standing.late(), True
        larger, rho_now = enlarged_uniformly(subject.parts[0], t, rho, step)
        if not rho_now < subject.product**2:
            futile = standing.is_futile or not (refused or standing.multipliers)
            return dataclasses.replace(standing, is_futile=futile), False
        if standing.reaches(rho_now):  # an earlier round was better
            return standing, False
        if rho_now < least:
            step = max(2 * step, tolerance / 10)
            continue
        try:
            found = claimed(subject, standing, larger, rho_now, budget, clearance)
        except OutOfTimeError as late:
            form = ScaledForm(subject.parts[0], t, rho, budget.device)
            step, clearance = hurried(subject, form, step, clearance, late, budget)
            if step == math.inf:
                standing = standing.late()
            limit = max(limit, _limit(subject, step))
            continue
        if found is not None:
            return found, True
        refused += 1
        if not mended_now and _may_mend(subject, proposals, budget):
            mended_now, standing = True, dataclasses.replace(standing, has_mended=True)
            t, step = _mended(subject, t, rho, step, proposals, budget)
            continue
        # Where a proof is dear, a larger clearance costs less than to iterate on, at first.
        if rounds.are_worth_it(subject, proposals, standing, budget) and not mended_now and refused > subject.is_large:
            return standing, True
        step = max(2 * step, tolerance / 10)
    return standing, False


def _limit(subject: Subject, step: float) -> float:
    """The step at which an attempt that began with this one ends."""
    return max(_MOST_STEP, 2 * step) if subject.is_large and step < math.inf else 1.0


def _least(subject: Subject, proposals: Proposals) -> float:
    """No multipliers prove less than a value of the relaxation, but for its rounding."""
    known = subject.by_power and proposals.value > 0
    return proposals.value**2 * (1 - 1e-4) if known else 0.0


def _may_mend(subject: Subject, proposals: Proposals, budget: Budget) -> bool:
    """Whether to look for the directions that a refused proof has seen; at first, iterating further takes less."""
    return subject.is_cheap and not rounds.resumes(subject, proposals) and not budget.is_limited


def _mended(
    subject: Subject, t: Array, rho: float, step: float, proposals: Proposals, budget: Budget
) -> tuple[Array, float]:
    """(multipliers, step) of the next try: adjusted in directions that nobody saw, or else a larger step."""
    known, enough = proposals.directions, 0.05 * subject.config.tolerance
    if known is None:
        return t, 2 * step
    better, missing = adjusted_in_new_span(subject.parts[0], t, rho, known, enough, budget.device)
    if not missing < 0.05:
        return t, 2 * step
    gain = 1.2 * missing + enough  # some of it is unseen
    return better, (1 - gain) ** -2 - 1
