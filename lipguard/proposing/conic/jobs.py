"""Independent solves, one after the other or in worker processes."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from lipguard.errors import ConfigError
from lipguard.proposing.conic.problem import Job, Problem
from lipguard.proposing.conic.solve import SolverOptions, solve
from lipguard.proposing.outcome import End, Outcome
from lipguard.proposing.processes import has_processes, run_all
from lipguard.proposing.proposal import Proposal

_WORTH_PROCESSES = 5.0  # predicted seconds below which starting a process costs more than it saves


def solve_all(
    jobs: Sequence[Job], options: SolverOptions, workers: int | None, deadline: float | None,
    done: Callable[[], None], executor: Executor | None = None,
) -> list[Proposal]:  # fmt: skip
    """Solve every job; `done` is called after each. What a deadline or a lost worker cuts off is a failed proposal.

    Args:
        jobs: the solves.
        options: for each of them.
        workers: processes, 1 for none, None to choose.
        deadline: of `time.monotonic()`, or None.
        done: progress.
        executor: what solves them instead of processes of this machine.

    Raises:
        ConfigError: processes were asked for and loky is not installed.
    """
    count = workers_for([job.seconds for job in jobs], workers)
    serial = executor is None and count == 1
    results = _serial(jobs, options, deadline) if serial else _apart(jobs, options, count, deadline, executor)
    found: dict[int, Proposal] = {}
    for index, proposal in results:
        found[index] = proposal
        done()
    return [found[i] for i in range(len(jobs))]


def workers_for(seconds: Sequence[float], asked: int | None) -> int:
    """How many processes tasks of these predicted times get; 1 for none.

    Raises:
        ConfigError: more were asked for and loky is not installed.
    """
    if asked is not None and asked > 1 and not has_processes():
        raise ConfigError(f"workers={asked} needs the package loky. Run: pip install 'lipguard[parallel]'")
    if asked is None:
        asked = (os.cpu_count() or 1) if has_processes() and sum(seconds) > _WORTH_PROCESSES else 1
    return max(1, min(asked, len(seconds)))


def _late() -> Proposal:
    return Proposal.without_multipliers(Outcome.no_time(End.FAILED))


def _serial(jobs: Sequence[Job], options: SolverOptions, deadline: float | None) -> Iterator[tuple[int, Proposal]]:
    for i, job in enumerate(jobs):
        yield i, _solve_before(job.problem, options, job.state, _wall(deadline))


def _apart(
    jobs: Sequence[Job], options: SolverOptions, count: int, deadline: float | None, executor: Executor | None
) -> Iterator[tuple[int, Proposal]]:
    """Longest first. A worker that dies costs its block only: the job is a failed proposal."""
    order = sorted(range(len(jobs)), key=lambda i: -jobs[i].seconds)
    tasks = [(jobs[i].problem, options, dict(jobs[i].state), _wall(deadline)) for i in order]
    for k, result in run_all(_solve_before, tasks, count, executor, deadline):
        if isinstance(result, TimeoutError):
            result = _late()
        elif isinstance(result, Exception):
            result = Proposal.without_multipliers(Outcome(End.FAILED, repr(result)))
        yield order[k], result


def _wall(deadline: float | None) -> float | None:
    """The deadline on a clock that processes share."""
    return None if deadline is None else time.time() + deadline - time.monotonic()


def _solve_before(
    problem: Problem, options: SolverOptions, state: Mapping[str, NDArray[np.float64]], wall: float | None
) -> Proposal:
    if wall is None:
        return solve(problem, options, state)
    left = wall - time.time()
    return _late() if left <= 0 else solve(problem, dataclasses.replace(options, max_seconds=left), state)
