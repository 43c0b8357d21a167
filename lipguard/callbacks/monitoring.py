"""What a Lipschitz monitor does, for either Lightning namespace.

`pytorch_lightning.Callback` and `lightning.pytorch.Callback` are different classes, and a trainer of one refuses
callbacks of the other. So this mixin imports neither, and a concrete class adds the base and its error class.

When the bound is computed. Lightning runs validation before `on_train_epoch_end`, and ModelCheckpoint saves at either
point (at the end of validation if `check_val_every_n_epoch` or `val_check_interval` is not 1, or if asked to), so both
have to see a bound of the weights that they store: it is computed at the end of every validation, and at the end of
the training epoch unless these weights have been measured already. Weights are compared by content, because averaging
and projection change them without a step of the optimizer.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lipguard.callbacks import loggers
from lipguard.callbacks.background import Queue
from lipguard.callbacks.harmless import PASSED_ON, harmless
from lipguard.callbacks.observed import fingerprint, first_input, is_a, stored_module
from lipguard.callbacks.rows import CERTIFIED, LOGGED, ROUNDED_UP, Row, failed, narrowed, precise, values_of
from lipguard.callbacks.settings import is_shape
from lipguard.callbacks.validated import Recomputed, Samples, Validated, certified_counts, disagreement, recompute
from lipguard.certifying.certify import Request, certify, device_of, plan
from lipguard.certifying.margins import Margins, accuracy_key, certify_margins, needed_pairs
from lipguard.certifying.report import Report, WarmStart
from lipguard.config import DCPConfig
from lipguard.errors import CertificateError, ConfigError, LipguardError
from lipguard.metrics.certified_accuracy import checked_epsilons, smallest_std
from lipguard.proposing.penalty import LipschitzPenalty
from lipguard.proposing.processes import has_processes
from lipguard.trusted.reading.private import in_eval_mode, random_states_kept
from lipguard.trusted.reading.trace import trace

_UNFIT = 1e30  # of selection, where the accuracy is not reached: above every bound, and smaller the nearer it is
_BETWEEN_FIGURES = 30.0  # seconds
_SAMPLES = 16  # inputs of the first batch from which the lower bound starts its ascent
_SHARDED = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")

_log = logging.getLogger(__name__)


class LipschitzMonitorMixin:
    """What a monitor does, for either Lightning namespace; see `LipschitzMonitor`.

    Trainer and module are untyped here, because the two namespaces share no base class for them.
    """

    _configuration_error: type[Exception] = ValueError

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
    ) -> None:
        super().__init__()
        if isinstance(every_n_epochs, bool) or not isinstance(every_n_epochs, int) or every_n_epochs < 1:
            raise self._configuration_error(f"Expected every_n_epochs to be at least 1, but got {every_n_epochs!r}.")
        if config is not None and not isinstance(config, DCPConfig):
            raise self._configuration_error(f"Expected config to be a DCPConfig or None, but got {config!r}.")
        if input_shape is not None and not is_shape(input_shape):
            raise self._configuration_error(
                "Expected input_shape to be the shape of one input without the batch axis, such as (1, 28, 28), "
                f"but got {input_shape!r}."
            )
        if not isinstance(log_prefix, str) or not log_prefix.strip("/"):
            raise self._configuration_error(f"Expected log_prefix to be a name, but got {log_prefix!r}.")
        if background and executor is None and not has_processes():
            raise self._configuration_error(
                "background=True needs an executor, or the package loky. Run: pip install 'lipguard[parallel]'"
            )
        if not isinstance(max_queue, int) or isinstance(max_queue, bool) or max_queue < 1:
            raise self._configuration_error(f"Expected max_queue to be at least 1, but got {max_queue!r}.")
        if isinstance(max_wait, bool) or not isinstance(max_wait, (int, float)) or not max_wait >= 0:
            raise self._configuration_error(f"Expected max_wait to be a number of seconds, but got {max_wait!r}.")
        self._check_numbers(
            warmup_epochs, every_n_train_steps, estimate_every_n_steps, max_overhead, margin_seconds, min_accuracy
        )
        try:
            self.epsilons = checked_epsilons(epsilons) if isinstance(epsilons, (int, float)) or len(epsilons) else ()
            self.input_std = smallest_std(input_std)
        except ConfigError as error:
            raise self._configuration_error(str(error)) from error
        self.every_n_epochs, self.every_n_train_steps = every_n_epochs, every_n_train_steps
        self.warmup_epochs, self.estimate_every_n_steps = warmup_epochs, estimate_every_n_steps
        self.max_overhead, self.margin_seconds, self.min_accuracy = max_overhead, margin_seconds, min_accuracy
        self.max_wait = float(max_wait)
        self._queue = Queue(max_queue, executor) if background else None
        self.config = config if config is not None else DCPConfig()
        self.input_shape = None if input_shape is None else tuple(input_shape)
        self.log_prefix = log_prefix.rstrip("/")

        self.history: list[Row] = []
        self.last_report: Report | None = None
        self._warm_start: WarmStart | None = None
        self._shape: tuple[int, ...] | None = self.input_shape
        self._shape_from_batch = False
        self._data: Tensor | None = None
        self._fingerprint = ""  # of the weights that the last row is about
        self._solved = False  # whether that row is a full solve, not a re-evaluation
        self._batch = -1  # the training batch after which it was computed
        self._logged = False  # whether this fit has logged anything yet
        self._step_triggers: tuple[int, ...] = ()
        self._warned: set[str] = set()
        self._validated = Validated()
        self._interrupted = False  # while margins were proved
        self.last_margins: Margins | None = None
        self._penalty: LipschitzPenalty | None = None
        self._module: nn.Module | None = None
        self._begun = math.nan  # of `time.monotonic()`, the fit
        self._measuring = 0.0  # seconds of it
        self._last_solve = 0.0
        self._shown = -math.inf  # when figures were drawn
        self._curve: tuple[list[float], list[float]] | None = None  # certified accuracy by radius
        self._expected: set[str] = set()  # what is logged of validations: by an earlier one, or monitored

    # --- hooks, in the order in which Lightning calls them ---

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse trainers in which the logged bound would not belong to the weights that are saved."""
        if stage != "fit":
            return
        if is_a(trainer.strategy, *_SHARDED):
            raise self._configuration_error(
                f"{type(self).__name__} needs all weights in one process, "
                f"but {type(trainer.strategy).__name__} shards them."
            )
        averaging = [i for i, callback in enumerate(trainer.callbacks) if is_a(callback, "WeightAveraging")]
        if averaging and trainer.callbacks.index(self) < max(averaging):
            raise self._configuration_error(
                f"Checkpoints hold the averaged weights: put {type(self).__name__} after "
                f"{type(trainer.callbacks[max(averaging)]).__name__} in the list of callbacks, to bound those."
            )
        watching = [
            checkpoint
            for checkpoint in trainer.checkpoint_callbacks
            if str(getattr(checkpoint, "monitor", "")).startswith(f"{self.log_prefix}/")
        ]
        monitored = {str(checkpoint.monitor).removeprefix(f"{self.log_prefix}/") for checkpoint in watching}
        self._expected = {name for name in monitored if name.startswith(CERTIFIED)}
        if any(getattr(checkpoint, "_train_time_interval", None) is not None for checkpoint in watching):
            raise self._configuration_error(
                f"ModelCheckpoint(train_time_interval=...) would save weights with the {self.log_prefix} bound of "
                "earlier ones. Use every_n_epochs or every_n_train_steps."
            )
        if self._queue is not None:
            stopping = [c for c in trainer.early_stopping_callbacks if str(c.monitor).startswith(f"{self.log_prefix}/")]
            if watching or stopping:
                raise self._configuration_error(
                    f"With background=True the bound of an epoch is known later than {self.log_prefix}/bound would be "
                    f"read by {type((watching + stopping)[0]).__name__}. Use background=False, or choose among the "
                    "checkpoints afterwards."
                )
        steps = (getattr(checkpoint, "_every_n_train_steps", 0) for checkpoint in watching)
        self._step_triggers = tuple(n for n in steps if n >= 1)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Forget what belongs to an earlier fit; take the input shape that is known before the first batch."""
        self._data, self._logged, self._batch = None, False, -1
        self._module, self._penalty = pl_module, None
        self._begun, self._measuring = time.monotonic(), 0.0
        self._prepare(trainer, pl_module)
        if self._shape is not None:
            self._check_configuration(stored_module(trainer, pl_module))
        if trainer.barebones:
            rank_zero_info(f"{type(self).__name__} rests: Trainer(barebones=True) disables logging.")

    @harmless
    def _prepare(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.barebones and trainer.is_global_zero:
            self._with_loggers(loggers.prepare, trainer, self.epsilons if self._queue is None else ())
        self._shape_from_batch = self.input_shape is None
        example = first_input(getattr(pl_module, "example_input_array", None))
        if self.input_shape is None and example is not None:
            self._shape, self._shape_from_batch = tuple(example.shape[1:]), False

    @harmless
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep a few inputs of the first batch."""
        if self._data is not None or trainer.barebones:
            return
        inputs = first_input(batch)
        if inputs is None:
            return
        shape = tuple(inputs.shape[1:])
        if self._shape_from_batch and shape != self._shape:
            self._shape = shape
            rank_zero_info(f"{type(self).__name__}: inputs have shape {shape}, as in the first training batch.")
        if shape == self._shape:
            self._data = inputs[:_SAMPLES].detach().cpu().clone()  # a slice alone would hold the whole batch

    @harmless
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Serve checkpoints that monitor a key of ours every n steps: they run after this hook."""
        step = trainer.global_step
        if trainer.barebones or not step:
            return
        if self.estimate_every_n_steps is not None and step % self.estimate_every_n_steps == 0:
            self._log_estimate(pl_module)
        due = self.every_n_train_steps is not None and step % self.every_n_train_steps == 0
        if due or any(step % n == 0 for n in self._step_triggers):
            self._measure(trainer, pl_module, end_of_epoch=False, due=due)

    @harmless
    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at the logits of the validation."""
        if self._looks(trainer):
            self._validated.begin(pl_module, self._shape)

    @harmless
    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep them, with the labels."""
        if self._looks(trainer):
            self._validated.add(pl_module, batch)

    def _looks(self, trainer: Any) -> bool:
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.barebones
        return bool(self.epsilons) and self._queue is None and fitting

    @harmless
    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure the weights that were validated, before checkpoints are saved at the end of validation."""
        self._validated.end()
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            end_of_epoch = bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)
            self._measure(trainer, pl_module, end_of_epoch=end_of_epoch, validated=True)

    @harmless
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure the weights at the end of the epoch, unless validation has just done so."""
        self._measure(trainer, pl_module, end_of_epoch=True)

    @harmless
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Tell when weights are stored that were changed after they had been measured."""
        if self._queue is not None or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        if trainer.fit_loop.total_batch_idx != self._batch:
            return
        if fingerprint(stored_module(trainer, pl_module)) != self._fingerprint:
            self._warn(
                "The weights were changed after the bound of this epoch had been computed (by on_train_epoch_end of "
                "the LightningModule, or a later callback): the checkpoint holds weights that its bound is not about. "
                "Change them in on_train_batch_end, or in a callback that is listed earlier."
            )

    @harmless
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Wait for the certificates that are still being computed; leave figures and the certificate with loggers."""
        if self._queue is not None:
            self._finish(trainer)
        if trainer.barebones or not trainer.is_global_zero:
            return
        self._show(trainer)
        if self._warm_start is not None:
            self._with_loggers(loggers.keep, trainer, self._warm_start.certificate)

    def _finish(self, trainer: Any) -> None:
        assert self._queue is not None
        from tqdm import tqdm  # comes with Lightning

        shown = trainer.progress_bar_callback is not None
        with tqdm(
            total=len(self._queue), desc="certificates", disable=not shown or not self._queue, leave=False
        ) as bar:
            for label, result in self._queue.finished(self.max_wait):
                self._keep(trainer, label, result)
                bar.update()
        lost = self._queue.close()
        if lost:
            epochs = ", ".join(str(label["epoch"]) for label in lost)
            self._warn(f"The certificates of epochs {epochs} were not done {self.max_wait:.0f} s after the training.")

    @harmless
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Keep what is done in the background, and do not wait for the rest."""
        self._validated.end()
        if self._queue is not None:
            for label, result in self._queue.finished():
                self._keep(trainer, label, result)
            self._queue.close()

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """History, warm start and what was measured last, in plain values that load with `weights_only=True`."""
        return {
            "history": [dict(row) for row in self.history],
            "warm_start": None if self._warm_start is None else self._warm_start.to_state(),
            "input_shape": None if self._shape is None else list(self._shape),
            "fingerprint": self._fingerprint,
            "solved": self._solved,
        }

    @harmless
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint. A warm start that cannot be read costs time, not the run."""
        self.history = [dict(row) for row in state_dict["history"]]
        self._fingerprint, self._solved = state_dict["fingerprint"], state_dict["solved"]
        if self.input_shape is None and state_dict["input_shape"] is not None:
            self._shape = tuple(state_dict["input_shape"])
        try:
            stored = state_dict["warm_start"]
            self._warm_start = None if stored is None else WarmStart.from_state(stored)
        except CertificateError as error:
            self._warm_start = None
            self._warn(f"The certificate in the checkpoint is unusable, the next solve starts cold: {error}")

    # --- measuring ---

    def _measure(
        self, trainer: Any, pl_module: Any, *, end_of_epoch: bool, due: bool = False, validated: bool = False
    ) -> None:
        if trainer.barebones:
            return
        began = time.monotonic()
        with random_states_kept(pl_module.device):
            self._measure_now(trainer, pl_module, end_of_epoch, due, validated)
        self._measuring += time.monotonic() - began

    def _measure_now(self, trainer: Any, pl_module: Any, end_of_epoch: bool, due: bool, validated: bool) -> None:
        if self._queue is not None:
            if trainer.is_global_zero:
                self._measure_later(trainer, pl_module, self._queue, end_of_epoch)
            return
        row = self._row_of_now(trainer, pl_module, end_of_epoch, due) if trainer.is_global_zero else None
        row = trainer.strategy.broadcast(row)  # one process computes, all log: keys must match on all ranks
        unknown: Row = {}  # Lightning would show monitors the last validation's value in its place
        if row is not None:
            self.history.append(row)
            if validated and self.epsilons:
                row |= self._certified(trainer, pl_module)
                self._expected |= {name for name in row if name.startswith(CERTIFIED)}
                unknown = dict.fromkeys(self._expected - set(row), math.nan)
        if row is not None or not self._logged:  # a resumed run has the row, but monitors need the key as well
            self._log(pl_module, self.history[-1] | unknown)
        if row is not None and trainer.is_global_zero and time.monotonic() - self._shown > _BETWEEN_FIGURES:
            self._show(trainer)
        self._batch = trainer.fit_loop.total_batch_idx
        interrupted, self._interrupted = self._interrupted, False
        if interrupted or (row is not None and str(row["status"]).startswith("interrupted")):
            raise KeyboardInterrupt  # certify ended with what it had; the training was meant as well

    def _measure_later(self, trainer: Any, pl_module: Any, queue: Queue, end_of_epoch: bool) -> None:
        """Take up what is done in the background, and submit the current weights when they are due."""
        for label, result in queue.finished():
            self._keep(trainer, label, result)
        epoch, model = int(trainer.current_epoch), stored_module(trainer, pl_module)
        if not end_of_epoch or (epoch + 1) % self.every_n_epochs:
            return
        weights = fingerprint(model)
        if self._fingerprint == weights != "":
            return
        if queue.is_full:
            self._warn(
                f"The certificate of epoch {epoch} is left out: {len(queue)} earlier ones are not done yet. Raise "
                "every_n_epochs or max_queue, or give a time budget: DCPConfig(max_seconds=...)."
            )
            return
        self._fingerprint = weights
        label = {"epoch": epoch, "step": int(trainer.global_step)}
        try:
            network = trace(in_eval_mode(model), self._known_shape())
            queue.submit(label, Request(network, self.config, self._warm_start, self._data))
        except Exception as error:  # nothing that goes wrong here may end the training
            self._keep(trainer, label, error)

    def _keep(self, trainer: Any, label: Row, result: Report | Exception) -> None:
        """Log a result of the background with the epoch that it belongs to."""
        if isinstance(result, Report):
            self.last_report, self._warm_start = result, result.warm_start
            values = values_of(result, str(result.status))
        else:
            reason = f"{type(result).__name__}: {result}"
            self._warn(f"An epoch's network could not be bounded, training goes on. {reason}")
            values = failed(reason, 0.0)
        self.history.append(label | values)
        logged = {f"{self.log_prefix}/{name}": narrowed(values[name], up=name in ROUNDED_UP) for name in LOGGED}
        self._with_loggers(loggers.log_late, trainer, logged | {"epoch": label["epoch"]}, label["step"])

    def _row_of_now(self, trainer: Any, pl_module: Any, end_of_epoch: bool, due: bool) -> Row | None:
        """`_new_row`, or one that says what failed: other processes wait for it."""
        began = time.monotonic()
        try:
            return self._new_row(trainer, pl_module, end_of_epoch, due)
        except PASSED_ON:
            raise
        except BaseException as error:
            _log.debug("a measurement failed", exc_info=True)
            reason = f"{type(error).__name__}: {error}"
            self._warn(f"The weights could not be measured, training goes on. {reason}")
            label = {"epoch": int(trainer.current_epoch), "step": int(trainer.global_step)}
            return label | failed(reason, time.monotonic() - began)

    def _new_row(self, trainer: Any, pl_module: Any, end_of_epoch: bool, due: bool) -> Row | None:
        """The row of the current weights, or None if the last one is about them."""
        epoch, model = int(trainer.current_epoch), stored_module(trainer, pl_module)
        full = due or (self.every_n_train_steps is None and end_of_epoch and (epoch + 1) % self.every_n_epochs == 0)
        full = full and epoch >= self.warmup_epochs and self._is_affordable()
        weights = fingerprint(model)
        known = weights == self._fingerprint != "" and bool(self.history) and self.history[-1]["epoch"] == epoch
        if known and (self._solved or not full):
            return None
        self._fingerprint, self._solved = weights, full
        began = time.monotonic()
        row = {"epoch": epoch, "step": int(trainer.global_step)} | self._estimate(
            model, full, progress=trainer.progress_bar_callback is not None
        )
        if full:
            self._last_solve = time.monotonic() - began
        return row

    def _is_affordable(self) -> bool:
        """Whether another solve stays within the share of the time that solves may take."""
        if self.max_overhead is None:
            return True
        passed = time.monotonic() - self._begun
        affordable = self._measuring + self._last_solve <= self.max_overhead * (passed + self._last_solve)
        if not affordable:
            self._warn(
                f"A solve was left out: with it, bounds would take more than max_overhead={self.max_overhead} of the "
                "time. What the last multipliers prove is logged in its place. Raise every_n_epochs for an even rhythm."
            )
        return affordable

    # --- what the bound says of the validation's samples ---

    def _certified(self, trainer: Any, pl_module: Any) -> Row:
        """The accuracy that margins certify on the batches that were just validated; nothing where there are none.

        Without a bound there is an accuracy, by the logits as they were seen, and no certified one.
        """
        began = time.monotonic()
        bounded = math.isfinite(float(self.history[-1]["bound"]))
        samples = self._validated.take()
        if samples is None and self._validated.reason:
            self._tell(f"no certified accuracy, because {self._validated.reason}.")
        counts = torch.zeros(3 + len(self.epsilons), dtype=torch.float64)
        classes = trainer.strategy.broadcast(None if samples is None else samples.logits.shape[1])
        if classes is None:
            return {}
        constants = self._margin_constants(trainer, pl_module, samples) if bounded and trainer.is_global_zero else None
        constants, seconds = trainer.strategy.broadcast((constants, time.monotonic() - began))
        if samples is not None and samples.logits.shape[1] == classes:
            found = self._counts(trainer, pl_module, samples, constants)
            counts = counts if found is None else found
        counts = trainer.strategy.reduce(counts.to(pl_module.device, precise(pl_module.device)), reduce_op="sum").cpu()
        total = float(counts[0])
        if not total:
            return {}
        accuracy = float(counts[1]) / total
        row = self._selection(accuracy) | {"accuracy": accuracy}
        if not bounded:
            return row
        shares = [float(count) / total for count in counts[2:-1]]
        return (
            {accuracy_key(epsilon): share for epsilon, share in zip(self.epsilons, shares, strict=True)}
            | row
            | {"average_certified_radius": float(counts[-1]) / total, "margin_seconds": seconds}
        )

    def _counts(self, trainer: Any, pl_module: Any, samples: Samples, constants: Tensor | None) -> Tensor | None:
        """What is certified of the samples of this process; None where their logits are not the bounded network's."""
        margins = Margins.of_bound(math.inf, samples.logits.shape[1]) if constants is None else Margins(constants)
        if constants is None:
            self._curve = None
            return certified_counts(samples.logits, samples.target, margins, self.epsilons, self.input_std)[0]
        try:
            found = self._recomputed(stored_module(trainer, pl_module), samples, constants)
        except PASSED_ON:
            raise
        except BaseException as error:  # nothing that goes wrong here may end the training
            _log.debug("logits could not be computed", exc_info=True)
            self._tell(f"no certified accuracy, because {type(error).__name__}: {error}")
            return None
        if isinstance(found, str):
            self._tell(f"no certified accuracy, because {found}.")
            return None
        counts, self._curve = certified_counts(
            found.logits, samples.target, margins, self.epsilons, self.input_std, found.error
        )
        return counts

    def _recomputed(self, model: nn.Module, samples: Samples, constants: Tensor) -> Recomputed | str:
        """The logits of the network that is bounded; in words, why they are not those that were seen."""
        with torch.inference_mode(False):
            network = trace(in_eval_mode(model), self._known_shape())
            if network.digest != self.history[-1]["digest"]:
                return "the weights are no longer those that were bounded"
            found = recompute(samples, network, constants, min(self.epsilons) / self.input_std, device_of(model))
        differs = disagreement(samples, found)
        if differs:
            return f"validation calls {self._validated.part or 'the module'}, {differs}"
        if not bool(found.computed.all()):
            self._tell(
                "some samples of the validation count as not certified, because computing the logits of all of them in "
                "float64 would take too long. Those that are likeliest to be certified are computed."
            )
        return found

    def _selection(self, accuracy: float) -> Row:
        """The bound, where the accuracy is reached: what a checkpoint is to have the smallest of."""
        if self.min_accuracy is None:
            return {}
        if accuracy >= self.min_accuracy:
            return {"selection": min(float(self.history[-1]["bound"]), _UNFIT)}
        return {"selection": _UNFIT * (1.0 + self.min_accuracy - accuracy)}

    def _margin_constants(self, trainer: Any, pl_module: Any, samples: Samples | None) -> Tensor:
        report, row = self.last_report, self.history[-1]
        assert samples is not None
        logits = samples.logits
        plain = Margins.of_bound(float(row["bound"]), logits.shape[1])
        if report is None or row["digest"] is None:
            return plain.constants
        budget = max(0.5, report.seconds) if self.margin_seconds is None else self.margin_seconds
        if budget <= 0:
            return plain.constants
        model = stored_module(trainer, pl_module)
        try:
            self.last_margins = certify_margins(
                in_eval_mode(model), self._known_shape(), report, self.config, needed_pairs(logits), budget,
                self.last_margins, optimise=self._solved,
            )  # fmt: skip
        except PASSED_ON:
            raise
        except BaseException as error:  # nothing that goes wrong here may end the training
            _log.debug("margins failed", exc_info=True)
            self._warn(f"Margins have no constants of their own, training goes on. {type(error).__name__}: {error}")
            return plain.constants
        reports = self.last_margins.reports.values()
        self._interrupted = any(report.status.is_interrupted for report in reports)
        return self.last_margins.constants

    # --- loggers ---

    def _show(self, trainer: Any) -> None:
        """Figures of what is known so far."""
        self._shown = time.monotonic()
        self._with_loggers(loggers.show, trainer, int(trainer.global_step), self.history, self._curve)

    def _with_loggers(self, act: Callable[..., None], trainer: Any, *arguments: Any) -> None:
        try:
            act(trainer.loggers, self.log_prefix, *arguments)
        except PASSED_ON:
            raise
        except BaseException as error:  # a logger that fails costs its figures
            _log.debug("a logger failed", exc_info=True)
            self._warn(f"A logger took no figures or artifacts, training goes on. {type(error).__name__}: {error}")

    # --- estimates and the penalty ---

    def penalty(self, every: int = 1) -> Tensor:
        """The value of LipSDP's relaxation at the weights as they are, to add to a loss: ``loss + lam * penalty()``.

        It is an estimate from below of the bound, differentiable in the weights; see `lipguard.LipschitzPenalty`. Call
        it in ``training_step``. The monitor must be among the trainer's callbacks.

        Args:
            every: compute it at every so many calls only, so many times as large, and return zero in between.
        """
        penalty = self._relaxation()
        penalty.every = every
        return penalty()

    def _relaxation(self) -> LipschitzPenalty:
        if self._module is None:
            raise LipguardError(f"{type(self).__name__}.penalty() is for a training that runs: pass it to a Trainer.")
        if self._penalty is None:
            self._penalty = LipschitzPenalty(self._module, self._known_shape(), seed=self.config.seed)
        return self._penalty

    def _log_estimate(self, pl_module: Any) -> None:
        """One pass of a few vectors forth and back; gradients of the weights are not touched."""
        try:
            value = self._relaxation().estimate()
        except PASSED_ON:
            raise
        except BaseException as error:
            self._warn(f"Without an estimate per step. {type(error).__name__}: {error}")
            return
        pl_module.log(f"{self.log_prefix}/estimate", value, batch_size=1, sync_dist=True, on_step=True)

    def _estimate(self, model: nn.Module, full: bool, progress: bool) -> Row:
        """The bound as plain values. Nothing that goes wrong here may end the training."""
        started = time.monotonic()
        reasons = []
        # What fails as configured may still give a product bound, or what the last multipliers prove.
        for config, optimise in ((self.config, full), (DCPConfig(), False)):
            try:
                report = self._certify(model, config, optimise, progress)
            except PASSED_ON:
                raise
            except BaseException as error:
                _log.debug("certify failed", exc_info=True)
                reasons.append(f"{type(error).__name__}: {error}")
                continue
            self.last_report, self._warm_start = report, report.warm_start
            status = f"fallback: {reasons[0]}" if reasons else str(report.status)
            if status.startswith("fallback"):
                self._warn(f"The bound is looser than it could be, training goes on. {status}")
            return values_of(report, status)
        self._warn(
            f"The network could not be bounded, training goes on and {self.log_prefix}/bound is logged as infinite. "
            f"{reasons[0]}"
        )
        return failed(reasons[0], time.monotonic() - started)

    def _known_shape(self) -> tuple[int, ...]:
        if self._shape is None:
            raise ValueError(
                "the input shape is not known, because no tensor of floats was found in the training batch. "
                f"Pass {type(self).__name__}(input_shape=...) or set example_input_array."
            )
        return self._shape

    def _certify(self, model: nn.Module, config: DCPConfig, optimise: bool, progress: bool) -> Report:
        return certify(
            in_eval_mode(model),
            self._known_shape(),
            config,
            warm_start=self._warm_start,
            progress=progress,
            data=self._data,
            optimise=optimise,
        )

    def _check_numbers(self, *values: Any) -> None:
        names = (
            "warmup_epochs", "every_n_train_steps", "estimate_every_n_steps", "max_overhead", "margin_seconds",
            "min_accuracy",
        )  # fmt: skip
        for name, value in zip(names, values, strict=True):
            if value is None and name != "warmup_epochs":
                continue
            numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
            whole = name.endswith(("_steps", "_epochs"))
            least = 1 if name.endswith("_steps") else 0
            if not numeric or (whole and not isinstance(value, int)) or not value >= least:
                kind = "an integer" if whole else "a number"
                raise self._configuration_error(f"Expected {name} to be {kind} of at least {least}, but got {value!r}.")

    def _check_configuration(self, model: nn.Module) -> None:
        """Refuse settings that do not fit the network before training, where they would cost every bound."""
        try:
            with random_states_kept(next((p.device for p in model.parameters()), torch.device("cpu"))):
                plan(in_eval_mode(model), self._shape or (), self.config)
        except ConfigError as error:
            raise self._configuration_error(str(error)) from error
        except PASSED_ON:
            raise
        except BaseException as error:  # the first measurement tells
            _log.debug("The network cannot be planned: %s", error)

    def _log(self, pl_module: Any, row: Row) -> None:
        device = pl_module.device
        # Lightning makes Python floats float32, which may round an upper bound down. Loggers narrow tensors too, so
        # the value is rounded the safe way beforehand; then a device without float64 keeps it as well.
        dtype = precise(device)
        certified = [name for name in row if name.startswith(CERTIFIED)]
        for name in (*LOGGED, *certified):
            pl_module.log(
                f"{self.log_prefix}/{name}",
                torch.tensor(narrowed(row[name], up=name in ROUNDED_UP), dtype=dtype, device=device),
                prog_bar=name == "bound",
                reduce_fx="max",
                batch_size=1,
                sync_dist=True,  # equal on all ranks already; without it Lightning warns
                add_dataloader_idx=False,
            )
        self._logged = True

    def _tell(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            rank_zero_info(f"{type(self).__name__}: {message}")

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            rank_zero_warn(f"{type(self).__name__}: {message}")
