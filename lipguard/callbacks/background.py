"""Certificates that are computed while the training goes on: a bounded queue before one process, or any executor."""

from __future__ import annotations

import os
import pickle
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from typing import Any

from torch import nn

from lipguard.callbacks.bounded import Bounded
from lipguard.callbacks.harmless import attempted, in_words
from lipguard.callbacks.loggers import Loggers
from lipguard.callbacks.messages import Messages
from lipguard.callbacks.observed import Inputs, fingerprint
from lipguard.callbacks.record import Record
from lipguard.callbacks.rows import OF_BOUNDS, Row, failed, values_of
from lipguard.callbacks.schedule import Moment, Schedule
from lipguard.callbacks.settings import MonitorSettings
from lipguard.certifying.many import certified
from lipguard.certifying.report import Report
from lipguard.certifying.request import Request
from lipguard.proposing.processes import thread_limits
from lipguard.trusted.reading.trace import read


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


class Background:
    """Measurements that are known later: logged, straight to the loggers, with the epoch that they belong to."""

    def __init__(
        self, settings: MonitorSettings, record: Record, inputs: Inputs, bounded: Bounded, schedule: Schedule,
        loggers: Loggers, messages: Messages,
    ) -> None:  # fmt: skip
        self.settings, self._record, self._inputs, self._bounded = settings, record, inputs, bounded
        self._schedule, self._loggers, self._messages = schedule, loggers, messages
        self._queue = Queue(settings.max_queue, settings.executor)

    def measure(self, trainer: Any, module: nn.Module, moment: Moment) -> None:
        """Take up what is done, and submit the current weights when they are due; in the process of rank zero."""
        if not trainer.is_global_zero:
            return
        self._take_up(trainer)
        if not self._schedule.takes_a_solve(moment):
            return
        model = self._bounded.of(trainer, module)
        weights = fingerprint(model)
        if self._record.knows(weights):
            return
        if self._queue.is_full:
            self._messages.warn(
                f"The certificate of epoch {moment.epoch} is left out: {len(self._queue)} earlier ones are not done "
                "yet. Raise every_n_epochs or max_queue, or give a time budget: DCPConfig(max_seconds=...)."
            )
            return
        self._record.last.fingerprint = weights
        attempted(lambda reason: self._keep(trainer, moment.label, reason), self._submit, model, moment)

    def _submit(self, model: nn.Module, moment: Moment) -> None:
        network = read(model, self._inputs.known_shape(), self._bounded.reading)
        request = Request(network, self.settings.config, self._record.warm_start, self._inputs.data)
        self._queue.submit(moment.label, request)

    def stored(self, trainer: Any, module: nn.Module) -> None:
        """Nothing: its bound is not known yet."""

    def finish(self, trainer: Any) -> None:
        """Wait for what is still being computed, with a progress bar; say what was not done in time."""
        from tqdm import tqdm  # comes with Lightning

        hidden = trainer.progress_bar_callback is None or not self._queue
        with tqdm(total=len(self._queue), desc="certificates", disable=hidden, leave=False) as bar:
            for label, result in self._queue.finished(self.settings.max_wait):
                self._keep(trainer, label, result)
                bar.update()
        lost = self._queue.close()
        if lost:
            epochs = ", ".join(str(label["epoch"]) for label in lost)
            wait = f"{self.settings.max_wait:.0f}"
            self._messages.warn(f"The certificates of epochs {epochs} were not done {wait} s after the training.")

    def give_up(self, trainer: Any) -> None:
        """Keep what is done, and do not wait for the rest."""
        self._take_up(trainer)
        self._queue.close()

    def _take_up(self, trainer: Any) -> None:
        for label, result in self._queue.finished():
            self._keep(trainer, label, result)

    def _keep(self, trainer: Any, label: Row, result: Report | Exception | str) -> None:
        """Log a result, or why there is none, with the epoch that it belongs to."""
        if isinstance(result, Report):
            self._record.learn(result)
            values = values_of(result, result.status)
        else:
            reason = result if isinstance(result, str) else in_words(result)
            self._messages.warn(f"An epoch's network could not be bounded, training goes on. {reason}")
            values = failed(reason, 0.0)
        self._record.history.append(label | values)
        logged = {f"{self.settings.log_prefix}/{key.name}": key.narrowed(values[key.name]) for key in OF_BOUNDS}
        self._loggers.log_late(trainer, logged | {"epoch": label["epoch"]}, label["step"])
