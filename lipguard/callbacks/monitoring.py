"""The hooks of a Lipschitz monitor, in Lightning's order, for either of its namespaces.

`pytorch_lightning.Callback` and `lightning.pytorch.Callback` are different classes, and a trainer of one refuses
callbacks of the other. So this mixin imports neither, and a concrete class adds the base and its error class.

When the bound is computed. Lightning runs validation before `on_train_epoch_end`, and ModelCheckpoint saves at either
point (at the end of validation if `check_val_every_n_epoch` or `val_check_interval` is not 1, or if asked to), so both
have to see a bound of the weights that they store: it is computed at the end of every validation, and at the end of
the training epoch unless these weights have been measured already. Weights are compared by content, because averaging
and projection change them without a step of the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor

from lipguard.callbacks.background import Background
from lipguard.callbacks.bounded import Bounded
from lipguard.callbacks.certified import Certified
from lipguard.callbacks.estimates import Estimates
from lipguard.callbacks.evaluating import EvaluationHooks
from lipguard.callbacks.foreground import Foreground
from lipguard.callbacks.guards import check_settings, check_trainer, come_after_averaging
from lipguard.callbacks.handover import Handover
from lipguard.callbacks.harmless import harmless
from lipguard.callbacks.loggers import Loggers
from lipguard.callbacks.measuring import Measuring
from lipguard.callbacks.messages import Messages
from lipguard.callbacks.observed import Inputs
from lipguard.callbacks.record import Record
from lipguard.callbacks.rows import Row
from lipguard.callbacks.schedule import Moment, Schedule
from lipguard.callbacks.settings import MonitorSettings, setting
from lipguard.certifying.margins import Margins
from lipguard.certifying.report import Report
from lipguard.config import DCPConfig
from lipguard.errors import ConfigError
from lipguard.trusted.reading.private import random_states_kept


class LipschitzMonitorMixin(EvaluationHooks):
    """What a monitor does, for either Lightning namespace; see `LipschitzMonitor`.

    Trainer and module are untyped here, because the two namespaces share no base class for them.
    """

    _configuration_error: type[Exception] = ValueError

    every_n_epochs = setting("every_n_epochs")
    config = setting("config")
    input_shape = setting("input_shape")
    log_prefix = setting("log_prefix")
    epsilons = setting("epsilons")
    input_std = setting("input_std")
    margin_seconds = setting("margin_seconds")
    min_accuracy = setting("min_accuracy")
    warmup_epochs = setting("warmup_epochs")
    every_n_train_steps = setting("every_n_train_steps")
    estimate_every_n_steps = setting("estimate_every_n_steps")
    max_overhead = setting("max_overhead")
    max_wait = setting("max_wait")
    module = setting("module")
    output = setting("output")
    input = setting("input")
    fixed = setting("fixed")

    def __init__(
        self,
        every_n_epochs: int = 1,
        config: DCPConfig | None = None,
        input_shape: Sequence[int] | None = None,
        log_prefix: str = "lipschitz",
        epsilons: float | Sequence[float] = (0.1, 0.25, 0.5),
        input_std: float | Sequence[float] = 1.0,
        margin_seconds: float | None = None,
        min_accuracy: float | None = None,
        warmup_epochs: int = 0,
        every_n_train_steps: int | None = None,
        estimate_every_n_steps: int | None = None,
        max_overhead: float | None = None,
        background: bool = False,
        max_queue: int = 2,
        max_wait: float = 600.0,
        executor: Executor | None = None,
        module: str | None = None,
        output: str | int | None = None,
        input: str | int | None = None,
        fixed: Mapping[str | int, Any] | None = None,
    ) -> None:
        super().__init__()
        made: Callable[..., MonitorSettings] = MonitorSettings  # which puts what it is given into one form
        with self._refusing():
            self.settings = made(
                every_n_epochs, config, input_shape, log_prefix, epsilons, input_std, margin_seconds, min_accuracy,
                warmup_epochs, every_n_train_steps, estimate_every_n_steps, max_overhead, background, max_queue,
                max_wait, executor, module, output, input, fixed,
            )  # fmt: skip
        self._messages = Messages(type(self).__name__)
        self._record = Record()
        self._inputs = Inputs(self.settings.input_shape, self._messages)
        self._schedule = Schedule(self.settings, self._messages)
        self._loggers = Loggers(self.settings.log_prefix, self._messages)
        self._bounded = Bounded(self.settings, self._inputs, self._messages)
        self._estimates = Estimates(self.settings, self._inputs, self._bounded, self._messages)
        self._certified = Certified(self.settings, self._record, self._inputs, self._bounded, self._messages)
        self._evaluated = self._foreground()
        self._work = self._background() if self.settings.background else self._evaluated
        self._handover = Handover()

    def _foreground(self) -> Foreground:
        known = self.settings, self._record
        measuring = Measuring(*known, self._inputs, self._bounded, self._schedule, self._messages)
        return Foreground(*known, self._bounded, measuring, self._certified, self._loggers, self._messages)

    def _background(self) -> Foreground | Background:
        return Background(
            self.settings, self._record, self._inputs, self._bounded, self._schedule, self._loggers, self._messages
        )

    @property
    def history(self) -> list[Row]:
        """One row of plain values per measurement."""
        left = self._handover.take()  # by a process that the trainer had started
        if left is not None:
            self.load_state_dict(left)
        return self._record.history

    @property
    def last_report(self) -> Report | None:
        """Of the last successful estimate, in the process of rank zero."""
        return self._record.report

    @property
    def last_margins(self) -> Margins | None:
        """The constants of margins at the last validation, in the process of rank zero."""
        return self._certified.margins

    # --- hooks, in the order in which Lightning calls them ---

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse trainers in which the logged bound would not belong to the weights that are saved."""
        if stage == "fit":
            come_after_averaging(trainer, self)
            with self._refusing():
                watched = check_trainer(trainer, self, self.settings)
            self._certified.expect(watched.names)
            self._schedule.serve(watched.every_n_steps)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Forget what belongs to an earlier fit; take the input shape that is known before the first batch."""
        for part in (self._inputs, self._record, self._schedule, self._bounded):
            part.begin()
        self._estimates.begin(pl_module)
        self._prepare(trainer, pl_module)
        with self._refusing():
            network = self._bounded.of(trainer, pl_module)
            if self._inputs.shape is not None:
                check_settings(network, self._inputs.shape, self.settings.config, self._bounded.reading)
        if trainer.barebones:
            rank_zero_info(f"{type(self).__name__} rests: Trainer(barebones=True) disables logging.")

    @harmless
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep a few inputs of the first batch."""
        if not trainer.barebones:
            self._inputs.see(batch)

    @harmless
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Serve checkpoints that monitor a key of ours every n steps: they run after this hook."""
        step = trainer.global_step
        if trainer.barebones or not step:
            return
        if self._schedule.estimates(step):
            self._estimates.log(pl_module)
        due = self._schedule.solves(step)
        if due or self._schedule.saves(step):
            self._measure(trainer, pl_module, Moment.now(trainer, due=due))

    @harmless
    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at the logits of the validation."""
        self._certified.begin(trainer, pl_module)

    @harmless
    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep them, with the labels."""
        self._certified.add(trainer, pl_module, batch)

    @harmless
    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure the weights that were validated, before checkpoints are saved at the end of validation."""
        self._certified.end()
        if trainer.state.fn == "validate":
            self._evaluate(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            end_of_epoch = bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)
            self._measure(trainer, pl_module, Moment.now(trainer, end_of_epoch=end_of_epoch, validated=True))

    @harmless
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure the weights at the end of the epoch, unless validation has just done so."""
        self._measure(trainer, pl_module, Moment.now(trainer, end_of_epoch=True))

    @harmless
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Tell when weights are stored that were changed after they had been measured."""
        self._work.stored(trainer, pl_module)

    @harmless
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Wait for the certificates that are still being computed; leave figures and the certificate with loggers."""
        self._work.finish(trainer)
        self._schedule.end(trainer.global_step)
        if trainer.is_global_zero:
            self._handover.leave(self.state_dict())
        if not trainer.barebones and trainer.is_global_zero:
            self._loggers.finish(trainer, self._record, self._certified.curve)

    @harmless
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Keep what is done in the background, and do not wait for the rest."""
        self._certified.end()
        self._work.give_up(trainer)
        if trainer.is_global_zero:
            self._handover.leave(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """History, warm start and what was measured last, in plain values that load with `weights_only=True`."""
        return self._record.state(self._inputs)

    @harmless
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint. A warm start that cannot be read costs time, not the run."""
        self._record.load(state_dict, self._inputs, self._messages)

    def penalty(self, every: int = 1) -> Tensor:
        """The value of LipSDP's relaxation at the weights as they are, to add to a loss: ``loss + lam * penalty()``.

        It is an estimate from below of the bound, differentiable in the weights; see `lipguard.LipschitzPenalty`. Call
        it in ``training_step``. The monitor must be among the trainer's callbacks.

        Args:
            every: compute it at every so many calls only, so many times as large, and return zero in between.
        """
        penalty = self._estimates.penalty()
        penalty.every = every
        return penalty()

    # --- what hooks have in common ---

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """What does not fit is an error of the namespace."""
        try:
            yield
        except ConfigError as error:
            raise self._configuration_error(str(error)) from error

    @harmless
    def _prepare(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.barebones and trainer.is_global_zero:
            self._loggers.prepare(trainer, () if self.settings.background else self.settings.epsilons)
        self._inputs.look_at(pl_module)

    def _measure(self, trainer: Any, pl_module: Any, moment: Moment) -> None:
        if trainer.barebones:
            return
        with self._schedule.measuring(), random_states_kept(pl_module.device):
            self._work.measure(trainer, pl_module, moment)
