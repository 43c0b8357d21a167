"""Proposals for all blocks: of the power iteration one after the other, of a conic solver all at once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from itertools import islice

from lipguard.certifying.attempts import rounds
from lipguard.certifying.budget import Budget
from lipguard.certifying.hints import HINTS
from lipguard.certifying.prepared import Prepared
from lipguard.certifying.proposals import Proposals
from lipguard.certifying.state import BlockState
from lipguard.certifying.subject import Subject
from lipguard.proposing.conic.problem import Job, Problem
from lipguard.trusted.certificate.verify import block_norms
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.norms.product import product_bounds

_SHARE_OF_PROOFS = 0.2  # of the time that is left, which conic solvers leave


def proposed(
    prepared: Prepared, states: Sequence[BlockState], budget: Budget, progress: bool, executor: Executor | None
) -> Iterator[BlockState]:
    """The states of all blocks with proposals, each as soon as it has them.

    Args:
        prepared: what is to be certified.
        states: of its blocks, without proposals.
        budget: of which proofs keep their share.
        progress: whether to show a progress bar of the solves.
        executor: what solves the LMIs of a conic solver, instead of processes of this machine.

    Raises:
        ConfigError: processes were asked for and loky is not installed.
    """
    from tqdm import tqdm  # comes with Lightning; not needed to verify

    optimise = prepared.request.optimise
    asked = [state for state in states if not state.subject.by_power] if optimise else []
    total = sum(len(state.subject.parts) for state in states)
    with tqdm(total=total, desc="LMIs", unit="solve", disable=not progress or not total, leave=False) as bar:
        if asked:
            yield from _by_conic_solver(asked, prepared.norms, budget, bar.update, executor)
        for state in states:
            if not state.subject.by_power:
                continue
            found = rounds.propose(state.subject, state.proposals, budget, optimise)
            bar.update(len(state.subject.parts))
            yield dataclasses.replace(state, proposals=found)


def _by_conic_solver(
    states: Sequence[BlockState], norms: Sequence[float], budget: Budget, done: Callable[[], None],
    executor: Executor | None,
) -> Iterator[BlockState]:  # fmt: skip
    from lipguard.proposing.conic.jobs import solve_all
    from lipguard.proposing.conic.solve import SolverOptions

    began, config = time.monotonic(), budget.config
    options = SolverOptions(config.solver, config.tolerance, config.max_iterations)
    jobs = [job for state in states for job in _jobs(state.subject, norms)]
    # The rest is for the proofs of what came back, where one solver hangs.
    limit = budget.deadline - _SHARE_OF_PROOFS * budget.left if budget.is_limited else None
    found = iter(solve_all(jobs, options, config.workers, limit, done, executor))
    each = (time.monotonic() - began) / max(len(jobs), 1)
    for state in states:
        own = tuple(islice(found, len(state.subject.parts)))
        yield dataclasses.replace(state, proposals=Proposals(own, seconds=each * len(own)))


def _jobs(subject: Subject, norms: Sequence[float]) -> list[Job]:
    """What a conic solver is asked; `norms` are those of the whole network's nodes."""
    block, share = subject.block, subject.block.seconds / max(len(subject.parts), 1)
    found = []
    for j, (part, freed) in enumerate(zip(subject.parts, subject.freed, strict=True)):
        known = block_norms(norms, block) if block.kind == "whole" else node_norms(part, HINTS)
        problem = Problem.build(part, freed, product_bounds(part, known))
        found.append(Job(problem, subject.earlier.get(subject.key(j), {}), share))
    return found
