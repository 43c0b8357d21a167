"""Independent solves, one after the other or in worker processes."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed

import numpy as np
from numpy.typing import NDArray

from lipguard.errors import ConfigError
from lipguard.solvers.conic import SolverOptions, solve
from lipguard.solvers.problem import Job, Problem, Proposal

_LOG = logging.getLogger(__name__)
_WORTH_PROCESSES = 5.0  # predicted seconds below which starting a process costs more than it saves
_GRACE = 10.0  # seconds past its own time limit after which a worker counts as lost


def solve_all(
    jobs: Sequence[Job], options: SolverOptions, workers: int | None, deadline: float | None, done: Callable[[], None]
) -> list[Proposal]:
    """Solve every job; `done` is called after each. What a deadline or a lost worker cuts off is a failed proposal.

    Args:
        jobs: the solves.
        options: for each of them.
        workers: processes, 1 for none, None to choose.
        deadline: of `time.monotonic()`, or None.
        done: progress.

    Raises:
        ConfigError: processes were asked for and loky is not installed.
    """
    count = _workers(workers, jobs)
    results = _serial(jobs, options, deadline) if count == 1 else _processes(jobs, options, count, deadline)
    found: dict[int, Proposal] = {}
    for index, proposal in results:
        found[index] = proposal
        done()
    return [found[i] for i in range(len(jobs))]


def _workers(asked: int | None, jobs: Sequence[Job]) -> int:
    there = importlib.util.find_spec("loky") is not None
    if asked is not None and asked > 1 and not there:
        raise ConfigError(f"workers={asked} needs the package loky. Run: pip install 'lipguard[parallel]'")
    if asked is None:
        worth = there and sum(job.seconds for job in jobs) > _WORTH_PROCESSES
        asked = (os.cpu_count() or 1) if worth else 1
    return max(1, min(asked, len(jobs)))


def _late() -> Proposal:
    return Proposal(None, float("nan"), "failed (no time left)")


def _serial(jobs: Sequence[Job], options: SolverOptions, deadline: float | None) -> Iterator[tuple[int, Proposal]]:
    for i, job in enumerate(jobs):
        yield i, _solve_before(job.problem, options, job.state, _wall(deadline))


def _processes(
    jobs: Sequence[Job], options: SolverOptions, count: int, deadline: float | None
) -> Iterator[tuple[int, Proposal]]:
    """Longest first. A worker that dies costs its block only: the job is a failed proposal."""
    import loky

    threads = str(max(1, (os.cpu_count() or 1) // count))
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    pool: Executor = loky.get_reusable_executor(count, timeout=600, env=dict.fromkeys(names, threads))
    order = sorted(range(len(jobs)), key=lambda i: -jobs[i].seconds)
    waiting: dict[Future[Proposal], int] = {
        pool.submit(_solve_before, jobs[i].problem, options, dict(jobs[i].state), _wall(deadline)): i for i in order
    }
    patience = None if deadline is None else max(deadline - time.monotonic(), 0.0) + _GRACE
    try:
        for future in as_completed(waiting, timeout=patience):
            error = future.exception()
            if error is not None:
                _LOG.warning("A worker process failed: %r", error)
            index = waiting.pop(future)
            yield index, future.result() if error is None else Proposal(None, float("nan"), f"failed ({error!r})")
    except TimeoutError:
        pool.shutdown(wait=False, kill_workers=True)  # type: ignore[call-arg]  # loky's own argument
        for index in waiting.values():
            yield index, _late()


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
