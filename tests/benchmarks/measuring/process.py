"""Time and peak memory of one piece of work in a fresh process of its own."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import torch

from .memory import peak_memory

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
_LONGEST_SETUP = 600.0  # seconds of imports and of loading, which are not measured
_GOODBYE = 10.0  # to leave nothing behind


@dataclass(frozen=True)
class Outcome:
    """What a piece of work came to.

    Attributes:
        status: "done", "timeout", or how it failed.
        seconds: wall time between the clock's start and its end; the limit where that ended it.
        peak: the most memory that the process held, in MB, with everything before the start; its own workers included.
        baseline: the same at the clock's start, after imports and warming up.
        values: what the work returned.
    """

    status: str
    seconds: float = math.nan
    peak: float = math.nan
    baseline: float = math.nan
    values: dict[str, Any] = field(default_factory=dict)


class Clock:
    """Given to the work, which enters it for what is to be measured."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.seconds = self.peak = self.baseline = math.nan

    def __enter__(self) -> Self:
        self.baseline = peak_memory()
        self._pipe.send("start")
        self._start = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.seconds = time.perf_counter() - self._start
        self.peak = peak_memory()
        self._pipe.send("end")


def measure(work: Callable[..., dict[str, Any]], *arguments: object, limit: float, threads: int) -> Outcome:
    """Run `work(clock, *arguments)` in a new interpreter.

    Args:
        work: a function of a module; it enters the clock once, and returns plain values.
        arguments: for it.
        limit: seconds after which what the clock measures is ended.
        threads: of every library in the process.
    """
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))  # libraries read them when they are loaded
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, threads, work, arguments))
    process.start()
    sender.close()
    assert process.pid is not None
    try:
        outcome = _outcome(receiver, process.pid, limit)
        if outcome.status != "timeout":
            process.join(_GOODBYE)
        return outcome
    finally:
        _end(process.pid)
        process.join()


def _outcome(receiver: Connection, process: int, limit: float) -> Outcome:
    try:
        for patience in (_LONGEST_SETUP, limit):
            if not receiver.poll(patience):
                return Outcome("timeout", limit, peak_memory(process))
            message = receiver.recv()
            if isinstance(message, Outcome):  # an exception
                return message
        outcome: Outcome = receiver.recv()
        return outcome
    except EOFError:
        return Outcome("failed (the process died)")


def _end(process: int) -> None:
    """End the process and the workers that it started."""
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:  # it ended, or has no group of its own yet
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            return


def _child(pipe: Connection, threads: int, work: Callable[..., dict[str, Any]], arguments: tuple[object, ...]) -> None:
    os.setsid()
    torch.set_num_threads(threads)
    clock = Clock(pipe)
    try:
        values = work(clock, *arguments)
    except Exception as error:  # a method that fails is a row of the table
        pipe.send(Outcome(f"failed ({type(error).__name__}: {error})", clock.seconds, clock.peak, clock.baseline))
        raise
    pipe.send(Outcome("done", clock.seconds, clock.peak, clock.baseline, values))
