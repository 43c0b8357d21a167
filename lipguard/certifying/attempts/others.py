"""Other kinds of proof than the planned one, where that proves nothing: a proof that fails is not the end."""

from __future__ import annotations

import dataclasses
import time

from lipguard.certifying.attempts import ways
from lipguard.certifying.budget import Budget
from lipguard.certifying.proposals import Proposals
from lipguard.certifying.standing import Standing
from lipguard.certifying.subject import Subject
from lipguard.planning.machine import cost_model
from lipguard.planning.prices.kinds import PRICES, price_of
from lipguard.planning.prices.price import Price
from lipguard.trusted.proofs.kinds import CHECKS
from lipguard.trusted.proofs.order import NoOrderError

_MOST = 60.0  # seconds that another proof is predicted to take, where time does not count


def are_wanted(subject: Subject, proposals: Proposals, standing: Standing, budget: Budget) -> bool:
    """Whether a proof of one LMI of the planner's choice failed, although its multipliers may prove something."""
    lost = subject.has_lmi and not standing.multipliers and not standing.is_futile
    chosen = subject.config.proof == "auto" and subject.block.kind == "whole" and not subject.block.grids
    late = proposals.is_interrupted or budget.are_proofs_over(subject.is_small)
    return lost and chosen and not late and (_have_multipliers(proposals) or bool(subject.warm_multipliers()))


def prove(subject: Subject, proposals: Proposals, standing: Standing, budget: Budget) -> tuple[Subject, Standing]:
    """The block with the first other proof that holds, and what it proves: those that memory and time allow.

    Deterministic ones go first, the cheapest before others. Where none holds the block is as it was planned, and the
    standing says what was tried, and why the others were not.
    """
    planned, tried = subject, [subject.block.proof]
    against: list[str] = []
    prices, unknown = _prices(subject, budget)
    for price in prices:
        reason = _against(price, subject, budget)
        if reason:
            against.append(f"a {price.kind} one would take {reason}")
            continue
        block = dataclasses.replace(
            planned.block, proof=price.kind, reason=f"where a {planned.block.proof} one proves nothing"
        )
        subject = planned.with_block(block)
        begun = ways.begun(subject, proposals, standing).and_said(_said(tried, against))
        found = ways.prove(subject, proposals, begun, budget)
        if found.multipliers:
            return subject, found
        tried.append(price.kind)
    return planned, standing.and_said(_said(tried, [*against, *unknown]))


def _prices(subject: Subject, budget: Budget) -> tuple[list[Price], list[str]]:
    """(those that can be had, in the order in which they are tried; why the others cannot be)."""
    part, cost = subject.parts[0], cost_model()
    found, unknown = [], []
    for kind in PRICES:
        # With another chance of its own, a proof that errs would take from that of proofs that are done.
        erring = CHECKS[kind].errs and (subject.config.failure_probability == 0 or len(subject.plan.blocks) > 1)
        if kind == subject.block.proof or erring:
            continue
        try:
            found.append(price_of(kind, part, subject.config, cost, budget.within(0.25)))
        except NoOrderError:
            unknown.append(f"no order of elimination for a {kind} one")
    return sorted(found, key=lambda price: (CHECKS[price.kind].errs, price.seconds)), unknown


def _against(price: Price, subject: Subject, budget: Budget) -> str:
    """What keeps a proof from being tried, in words; empty where nothing does."""
    if not price.fits(budget.memory):
        return f"{price.bytes / 1e6:.0f} MB"
    if not CHECKS[price.kind].errs and price.seconds > min(budget.left, _MOST):
        return f"{price.seconds:.0f} s"
    return "time" if time.monotonic() > budget.end_of_proofs(subject.is_small) else ""


def _have_multipliers(proposals: Proposals) -> bool:
    return any(proposal.multipliers is not None for proposal in proposals.every)


def _said(tried: list[str], against: list[str]) -> str:
    return ", ".join([f"no {' nor '.join(tried)} proof", *against])
