"""A measurement: the weights as they are, certified as configured or as well as they can be, as a row."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from lipguard.callbacks.bounded import Bounded
from lipguard.callbacks.harmless import attempted
from lipguard.callbacks.messages import Messages
from lipguard.callbacks.observed import Inputs, fingerprint
from lipguard.callbacks.record import Record
from lipguard.callbacks.rows import Row, failed, values_of
from lipguard.callbacks.schedule import Moment, Schedule
from lipguard.callbacks.settings import MonitorSettings
from lipguard.certifying.certify import certify
from lipguard.certifying.report import Report
from lipguard.certifying.status import Outcome, Status
from lipguard.config import DCPConfig


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        row: plain values.
        interrupted: whether Ctrl-C ended it, with what was proved until then.
    """

    row: Row
    interrupted: bool = False


class Measuring:
    """Bounds of weights. Nothing that goes wrong here may end the training, and there is always a row."""

    def __init__(
        self, settings: MonitorSettings, record: Record, inputs: Inputs, bounded: Bounded, schedule: Schedule,
        messages: Messages,
    ) -> None:  # fmt: skip
        self.settings, self._record, self._inputs, self._bounded = settings, record, inputs, bounded
        self._schedule, self._messages = schedule, messages

    def measure(self, trainer: Any, module: nn.Module, moment: Moment) -> Measured | None:
        """The current weights; None if the last row is about them."""
        began = time.monotonic()

        def lost(reason: str) -> Measured:  # a row, as other processes wait for one
            self._messages.warn(f"The weights could not be measured, training goes on. {reason}")
            return Measured(moment.label | failed(reason, time.monotonic() - began))

        return attempted(lost, self._measure, trainer, module, moment)

    def _measure(self, trainer: Any, module: nn.Module, moment: Moment) -> Measured | None:
        model, record = self._bounded.of(trainer, module), self._record
        full = self._schedule.takes_a_solve(moment)
        weights = fingerprint(model)
        rows = record.history
        known = record.knows(weights) and bool(rows) and (moment.evaluates or rows[-1]["epoch"] == moment.epoch)
        if known and (record.last.solved or not full):
            return None
        record.last.fingerprint, record.last.solved = weights, full
        progress = trainer.progress_bar_callback is not None
        with self._schedule.solving() if full else nullcontext():
            values, status = self.bound(model, full, progress)
        return Measured(moment.label | values, status.is_interrupted)

    def bound(self, model: nn.Module, full: bool, progress: bool = False) -> tuple[Row, Status]:
        """What is proved of a network, and how that went.

        Args:
            model: the network.
            full: solve, and do not only prove what the last multipliers give.
            progress: show a progress bar of the solves.
        """
        started = time.monotonic()
        reasons: list[str] = []
        # What fails as configured may still give a product bound, or what the last multipliers prove.
        for config, optimise in ((self.settings.config, full), (DCPConfig(), False)):
            report = attempted(reasons.append, self._certify, model, config, optimise, progress)
            if report is None:
                continue
            self._record.learn(report)
            status = Status(Outcome.FALLBACK, reasons[0]) if reasons else report.status
            if status.is_fallback:
                self._messages.warn(f"The bound is looser than it could be, training goes on. {status}")
            return values_of(report, status), status
        self._messages.warn(
            f"The network could not be bounded, training goes on and {self.settings.log_prefix}/bound is logged as "
            f"infinite. {reasons[0]}"
        )
        return failed(reasons[0], time.monotonic() - started), Status(Outcome.FAILED, reasons[0])

    def _certify(self, model: nn.Module, config: DCPConfig, optimise: bool, progress: bool) -> Report:
        own = self._bounded.reading
        return certify(
            model,
            self._inputs.known_shape(),
            config,
            warm_start=self._record.warm_start,
            progress=progress,
            data=self._inputs.data,
            optimise=optimise,
            output=own.output,
            input=own.input,
            fixed=own.fixed,
        )
