"""Independent tasks in other processes: those of this machine, or of any executor that is given."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from typing import Any, TypeVar

from lipguard.errors import ConfigError, LipguardError

_LOG = logging.getLogger(__name__)
_GRACE = 1.0  # seconds past the deadline after which a task counts as lost
R = TypeVar("R")


def run_all(
    work: Callable[..., R],
    tasks: Sequence[tuple[Any, ...]],
    workers: int,
    executor: Executor | None = None,
    deadline: float | None = None,
    patience: float = math.inf,
) -> Iterator[tuple[int, R | Exception]]:
    """`work(*task)` for every task, as they end: (index, result), or the exception where there is none.

    What a given executor fails to do, because it or its machines are gone, processes of this machine do. A task that
    was lost with its process is tried once more, in one of its own; errors that lipguard itself raises are not.

    Args:
        work: importable by name, or cloudpickle's to send.
        tasks: its arguments, the longest first.
        workers: processes of this machine.
        executor: to use instead, such as `dask.distributed.Client(...).get_executor()`.
        deadline: of `time.monotonic()`, at which whatever is left is a `TimeoutError`.
        patience: seconds without any result after which the given executor counts as gone.
    """
    waiting, errors = dict(enumerate(tasks)), dict[int, Exception]()
    if executor is not None:
        yield from _attempt(executor, work, waiting, errors, deadline, patience)
        if waiting and not _is_late(deadline):
            _LOG.warning("The executor lost %d of %d tasks (%r); they run here.", len(waiting), len(tasks),
                         next(iter(errors.values()), None))  # fmt: skip
    if waiting and not _is_late(deadline):
        yield from _attempt(process_pool(min(workers, len(waiting))), work, waiting, errors, deadline)
    for i in list(waiting):
        if i in errors and not isinstance(errors[i], TimeoutError) and not _is_late(deadline):
            alone = {i: waiting.pop(i)}
            yield from _attempt(process_pool(1), work, alone, errors, deadline)
            waiting |= alone
    for i in waiting:
        yield i, errors.get(i, TimeoutError("no time left"))


def process_pool(workers: int) -> Executor:
    """Processes of this machine, so many threads each that all cores are used once.

    Raises:
        ConfigError: loky is not installed.
    """
    if not has_processes():
        raise ConfigError(f"workers={workers} needs the package loky. Run: pip install 'lipguard[parallel]'")
    import loky

    threads = max(1, (os.cpu_count() or 1) // workers)
    pool: Executor = loky.get_reusable_executor(workers, timeout=600, env=thread_limits(threads))
    return pool


def thread_limits(threads: int) -> dict[str, str]:
    """Environment of a process whose libraries use so many threads."""
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))


def has_processes() -> bool:
    """Whether loky is there."""
    return importlib.util.find_spec("loky") is not None


def _is_late(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline + _GRACE


def _attempt(
    pool: Executor,
    work: Callable[..., R],
    waiting: dict[int, tuple[Any, ...]],
    errors: dict[int, Exception],
    deadline: float | None,
    patience: float = math.inf,
) -> Iterator[tuple[int, R | Exception]]:
    """Yield what the pool does, and take it off `waiting`; why it fails at the rest is left in `errors`."""
    futures: dict[Future[R], int] = {}
    try:
        for i, task in waiting.items():
            futures[pool.submit(work, *task)] = i
    except Exception as error:  # of any kind: the executor is not ours
        errors |= {i: error for i in waiting if i not in futures.values()}
    pending = set(futures)
    while pending:
        left = math.inf if deadline is None else max(deadline - time.monotonic(), 0.0) + _GRACE
        limit = min(left, patience)
        done, pending = wait(pending, None if limit == math.inf else limit, FIRST_COMPLETED)
        if not done:
            _give_up(pool, pending)
            errors |= {futures[f]: TimeoutError(f"nothing came back for {limit:.0f} s") for f in pending}
            return
        for future in done:
            i = futures[future]
            try:
                result: R | Exception = future.result()
            except LipguardError as error:
                result = error
            except (Exception, CancelledError) as error:
                _LOG.warning("A worker process failed: %r", error)
                errors[i] = error if isinstance(error, Exception) else RuntimeError(repr(error))
                continue
            del waiting[i]
            yield i, result


def _give_up(pool: Executor, pending: set[Future[R]]) -> None:
    for future in pending:
        future.cancel()
    if type(pool).__module__.startswith("loky"):  # ours: its processes would go on
        pool.shutdown(wait=False, kill_workers=True)  # type: ignore[call-arg]
