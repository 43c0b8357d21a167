"""Certificates that are computed while the training goes on: a bounded queue before one process, or any executor."""

from __future__ import annotations

import os
import pickle
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from typing import Any

from lipguard.certifying.certify import Request
from lipguard.certifying.many import certified
from lipguard.certifying.report import Report
from lipguard.proposing.processes import thread_limits


class Queue:
    """Requests in the order of their epochs, and what became of them.

    Args:
        most: how many may wait or be worked on at once.
        executor: who works on them; None starts one process, with half of the cores, when there is something to do.
    """

    def __init__(self, most: int, executor: Executor | None = None) -> None:
        self.most, self._given = most, executor
        self._own: Executor | None = None
        self._threads = max(1, (os.cpu_count() or 1) // 2)
        self._waiting: deque[tuple[dict[str, Any], Future[Report]]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether there is no place left."""
        return len(self._waiting) >= self.most

    def submit(self, label: dict[str, Any], request: Request) -> None:
        """Certify the weights as they are now; they are copied.

        Args:
            label: comes back with the result.
            request: the network, and how it is certified.
        """
        threads = None if self._given is not None else self._threads
        self._waiting.append((label, self._executor().submit(certified, pickle.dumps(request), threads)))

    def finished(self, wait: float = 0.0) -> Iterator[tuple[dict[str, Any], Report | Exception]]:
        """What is done, in order, after waiting for so many seconds in all at most."""
        until = time.monotonic() + wait
        while self._waiting:
            label, future = self._waiting[0]
            try:
                result: Report | Exception = future.result(max(until - time.monotonic(), 0.0))
            except TimeoutError as error:
                if not future.done():
                    return
                result = error
            except (Exception, CancelledError) as error:
                result = error if isinstance(error, Exception) else RuntimeError(repr(error))
                if isinstance(error, BrokenExecutor):
                    self._own = None  # a pool that lost its process takes no more
            self._waiting.popleft()
            yield label, result

    def close(self) -> list[dict[str, Any]]:
        """Give up what is not done, at once; returns the labels of it."""
        lost = [label for label, _ in self._waiting]
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
        if self._own is not None:
            self._own.shutdown(wait=False, kill_workers=True)  # type: ignore[call-arg]  # loky's own argument
            self._own = None
        return lost

    def _executor(self) -> Executor:
        if self._given is not None:
            return self._given
        if self._own is None:
            import loky

            own: Executor = loky.ProcessPoolExecutor(1, timeout=None, env=thread_limits(self._threads))
            self._own = own
        return self._own
