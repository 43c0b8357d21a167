"""When a measurement is due, and whether a full solve is affordable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lipguard.callbacks.messages import Messages
from lipguard.callbacks.settings import MonitorSettings


@dataclass(frozen=True)
class Moment:
    """When a measurement is asked for.

    Attributes:
        epoch: the current one.
        step: of the optimizer.
        batch: batches of the whole training, which tells whether anything was trained since.
        end_of_epoch: whether all batches of the epoch are done.
        due: whether a full solve is due, by steps.
        validated: whether the weights were just validated.
        evaluates: whether nothing is trained: the weights are validated, or tested, as they are.
    """

    epoch: int
    step: int
    batch: int
    end_of_epoch: bool = False
    due: bool = False
    validated: bool = False
    evaluates: bool = False

    @classmethod
    def now(
        cls, trainer: Any, *, end_of_epoch: bool = False, due: bool = False, validated: bool = False,
        evaluates: bool = False,
    ) -> Moment:  # fmt: skip
        """As the trainer counts."""
        epoch, step, batch = trainer.current_epoch, trainer.global_step, trainer.fit_loop.total_batch_idx
        return cls(int(epoch), int(step), batch, end_of_epoch, due, validated, evaluates)

    @property
    def label(self) -> dict[str, Any]:
        """What a row starts with."""
        return {"epoch": self.epoch, "step": self.step}


class Schedule:
    """When a measurement is due, and what measurements have taken.

    Args:
        settings: of the monitor.
        messages: where it is said that a solve was left out.
        clock: seconds that only grow.
    """

    def __init__(
        self, settings: MonitorSettings, messages: Messages, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings, self._messages, self._clock = settings, messages, clock
        self._saving_steps: tuple[int, ...] = ()  # every so many of which a checkpoint that monitors a key is saved
        self._begun = math.nan  # of the clock, the fit
        self._step, self._solved = 0, False  # the last one that was asked about; whether a solve was due by then
        self._measuring = 0.0  # seconds of it
        self._last_solve = 0.0

    def serve(self, every_n_steps: tuple[int, ...]) -> None:
        """Measure for checkpoints that are saved every so many steps."""
        self._saving_steps = every_n_steps

    def begin(self) -> None:
        """A fit begins."""
        self._begun, self._measuring = self._clock(), 0.0
        self._step, self._solved = 0, False

    def end(self, step: int) -> None:
        """A fit ends after so many steps: tell where none of its solves was due."""
        every = self.settings.every_n_train_steps
        if every is not None and not self._solved:
            said = f"{step} steps" if step else "none, as of optimizers that were asked for with use_pl_optimizer=False"
            self._messages.warn(
                f"every_n_train_steps={every} was never reached, so there was no full solve: the trainer counted "
                f"{said}. Use fewer, or every_n_epochs."
            )

    def estimates(self, step: int) -> bool:
        """Whether an estimate is due after a step."""
        every = self.settings.estimate_every_n_steps
        return every is not None and step % every == 0

    def solves(self, step: int) -> bool:
        """Whether a full solve is due after a step."""
        every = self.settings.every_n_train_steps
        if every is None:
            return False
        # Several optimizers make several steps per batch, and may step over a multiple.
        due, self._step = step // every > self._step // every or step % every == 0, step
        self._solved = self._solved or due
        return due

    def saves(self, step: int) -> bool:
        """Whether a checkpoint that monitors a key is saved after a step."""
        return any(step % every == 0 for every in self._saving_steps)

    def ends_an_interval(self, moment: Moment) -> bool:
        """Whether it is the end of an epoch after which a full solve is due."""
        return moment.end_of_epoch and (moment.epoch + 1) % self.settings.every_n_epochs == 0

    def takes_a_solve(self, moment: Moment) -> bool:
        """Whether a full solve is due, and affordable; says so where it is not."""
        by_epochs = self.settings.every_n_train_steps is None and self.ends_an_interval(moment)
        due = (moment.due or by_epochs) and moment.epoch >= self.settings.warmup_epochs
        return moment.evaluates or (due and self._is_affordable())

    def _is_affordable(self) -> bool:
        """Whether one more solve keeps within the share of the time that solves may take."""
        share = self.settings.max_overhead
        if share is None:
            return True
        passed = self._clock() - self._begun
        affordable = self._measuring + self._last_solve <= share * (passed + self._last_solve)
        if not affordable:
            self._messages.warn(
                f"A solve was left out: with it, bounds would take more than max_overhead={share} of the "
                "time. What the last multipliers prove is logged in its place. Raise every_n_epochs for an even rhythm."
            )
        return affordable

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """The time in it is that of a measurement."""
        began = self._clock()
        yield
        self._measuring += self._clock() - began

    @contextmanager
    def solving(self) -> Iterator[None]:
        """The time in it is that of a full solve."""
        began = self._clock()
        yield
        self._last_solve = self._clock() - began
