"""One network: plan, propose, prove, report."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator
from concurrent.futures import Executor

from lipguard.certifying.attempts import others, rounds, tightening, ways
from lipguard.certifying.budget import Budget
from lipguard.certifying.hints import HINTS
from lipguard.certifying.learning import learned
from lipguard.certifying.plans import have_same_blocks, plan_for
from lipguard.certifying.prepared import Prepared
from lipguard.certifying.propose import proposed
from lipguard.certifying.report import Report
from lipguard.certifying.reporting import reported
from lipguard.certifying.request import Request
from lipguard.certifying.state import BlockState, first_states
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.regions.bounded import bounded

_LOG = logging.getLogger(__name__)
_SHARE_OF_NORMS = 0.1  # of the time that is left, beyond which layers get looser norms


def run(request: Request, budget: Budget, progress: bool = False, executor: Executor | None = None) -> Report:
    """Certify a network; see `certify_network`.

    Raises:
        LateNormError: there is no time to read what a domain makes of the network.
    """
    prepared = _prepared(request, budget)
    request, states, interrupted = prepared.request, first_states(prepared), False
    try:
        for state in proposed(prepared, states, budget, progress, executor):
            states[state.subject.index] = state
        for i in range(len(states)):
            for state in _proved(states[i], budget, request.optimise):
                states[i] = state
    except KeyboardInterrupt:  # what is proved so far is the result
        interrupted = True
    interrupted = interrupted or any(state.proposals.is_interrupted for state in states)
    report = reported(prepared, states, budget, interrupted)
    as_planned = report.plan is prepared.plan and not budget.is_limited
    if as_planned and request.warm is None and request.optimise and report.status.is_complete:
        report = learned(report, states)
    return report


def _prepared(request: Request, budget: Budget) -> Prepared:
    """The plan, and the norms."""
    # The verifier's slopes come from norms that are not late, and so must these.
    network = bounded(request.network, request.domain, HINTS, budget.within(3 * _SHARE_OF_NORMS))
    plan = plan_for(network, request, budget)
    if request.warm is not None and not have_same_blocks(plan, request.warm.certificate.plan):
        _LOG.info("The warm start belongs to another architecture or plan; starting cold.")
        request = dataclasses.replace(request, warm=None)
    return Prepared(request, network, plan, node_norms(network, HINTS, budget.within(_SHARE_OF_NORMS)))


def _proved(state: BlockState, budget: Budget, optimise: bool) -> Iterator[BlockState]:
    """The states of a block on its way, each of which counts whatever happens to the next."""
    subject = state.subject
    while True:
        standing = ways.begun(subject, state.proposals, state.standing)
        yield (state := dataclasses.replace(state, standing=standing))
        if subject.has_lmi:
            began = time.monotonic()
            standing = ways.prove(subject, state.proposals, standing, budget)
            proving = state.proving + time.monotonic() - began
            yield (state := dataclasses.replace(state, standing=standing, proving=proving))
        if not (optimise and rounds.are_worth_it(subject, state.proposals, state.standing, budget)):
            break
        more = rounds.propose(subject, state.proposals, budget, True)
        yield (state := dataclasses.replace(state, proposals=more))
    if others.are_wanted(subject, state.proposals, state.standing, budget):
        began = time.monotonic()
        subject, standing = others.prove(subject, state.proposals, state.standing, budget)
        proving = state.proving + time.monotonic() - began
        yield (state := dataclasses.replace(state, subject=subject, standing=standing, proving=proving))
    if optimise and tightening.is_worth_it(subject, state.proposals, state.standing):
        began = time.monotonic()
        standing = tightening.prove(subject, state.proposals, state.standing, budget)
        yield dataclasses.replace(state, standing=standing, tightening=time.monotonic() - began)
