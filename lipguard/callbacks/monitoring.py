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
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lipguard.callbacks.observed import fingerprint, first_input, is_a, stored_module
from lipguard.certificate.rounding import to_float32_down, to_float32_up
from lipguard.certification import certify, plan
from lipguard.config import DCPConfig
from lipguard.errors import CertificateError, ConfigError, LipguardError
from lipguard.network.trace import eval_mode
from lipguard.report import Report, WarmStart

Row: TypeAlias = dict[str, Any]  # plain values: it is broadcast, and stored in checkpoints

_LOGGED = ("bound", "product_bound", "lower_bound", "tightness", "seconds")
_ROUNDED_UP = ("bound", "product_bound")
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
    ) -> None:
        super().__init__()
        if isinstance(every_n_epochs, bool) or not isinstance(every_n_epochs, int) or every_n_epochs < 1:
            raise self._configuration_error(f"Expected every_n_epochs to be at least 1, but got {every_n_epochs!r}.")
        if config is not None and not isinstance(config, DCPConfig):
            raise self._configuration_error(f"Expected config to be a DCPConfig or None, but got {config!r}.")
        if input_shape is not None and not _is_shape(input_shape):
            raise self._configuration_error(
                "Expected input_shape to be the shape of one input without the batch axis, such as (1, 28, 28), "
                f"but got {input_shape!r}."
            )
        if not isinstance(log_prefix, str) or not log_prefix.strip("/"):
            raise self._configuration_error(f"Expected log_prefix to be a name, but got {log_prefix!r}.")
        self.every_n_epochs = every_n_epochs
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
        if any(getattr(checkpoint, "_train_time_interval", None) is not None for checkpoint in watching):
            raise self._configuration_error(
                f"ModelCheckpoint(train_time_interval=...) would save weights with the {self.log_prefix} bound of "
                "earlier ones. Use every_n_epochs or every_n_train_steps."
            )
        steps = (getattr(checkpoint, "_every_n_train_steps", 0) for checkpoint in watching)
        self._step_triggers = tuple(n for n in steps if n >= 1)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Forget what belongs to an earlier fit; take the input shape that is known before the first batch."""
        self._data, self._logged, self._batch = None, False, -1
        example = first_input(getattr(pl_module, "example_input_array", None))
        self._shape_from_batch = self.input_shape is None and example is None
        if self.input_shape is None and example is not None:
            self._shape = tuple(example.shape[1:])
        if self._shape is not None:
            self._check_configuration(stored_module(trainer, pl_module))
        if trainer.barebones:
            rank_zero_info(f"{type(self).__name__} rests: Trainer(barebones=True) disables logging.")

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

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Serve checkpoints that monitor a key of ours every n steps: they run after this hook."""
        if trainer.global_step and any(trainer.global_step % n == 0 for n in self._step_triggers):
            self._measure(trainer, pl_module, end_of_epoch=False)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure the weights that were validated, before checkpoints are saved at the end of validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            end_of_epoch = bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)
            self._measure(trainer, pl_module, end_of_epoch=end_of_epoch)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure the weights at the end of the epoch, unless validation has just done so."""
        self._measure(trainer, pl_module, end_of_epoch=True)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Tell when weights are stored that were changed after they had been measured."""
        if trainer.state.fn != "fit" or not trainer.is_global_zero or trainer.fit_loop.total_batch_idx != self._batch:
            return
        if fingerprint(stored_module(trainer, pl_module)) != self._fingerprint:
            self._warn(
                "The weights were changed after the bound of this epoch had been computed (by on_train_epoch_end of "
                "the LightningModule, or a later callback): the checkpoint holds weights that its bound is not about. "
                "Change them in on_train_batch_end, or in a callback that is listed earlier."
            )

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

    def _measure(self, trainer: Any, pl_module: Any, *, end_of_epoch: bool) -> None:
        if trainer.barebones:
            return
        row = self._new_row(trainer, pl_module, end_of_epoch) if trainer.is_global_zero else None
        row = trainer.strategy.broadcast(row)  # one process computes, all log: keys must match on all ranks
        if row is not None:
            self.history.append(row)
        if row is not None or not self._logged:  # a resumed run has the row, but monitors need the key as well
            self._log(pl_module, self.history[-1])
        self._batch = trainer.fit_loop.total_batch_idx
        if row is not None and str(row["status"]).startswith("interrupted"):
            raise KeyboardInterrupt  # certify ended with what it had; the training was meant as well

    def _new_row(self, trainer: Any, pl_module: Any, end_of_epoch: bool) -> Row | None:
        """The row of the current weights, or None if the last one is about them."""
        epoch, model = int(trainer.current_epoch), stored_module(trainer, pl_module)
        full = end_of_epoch and (epoch + 1) % self.every_n_epochs == 0
        weights = fingerprint(model)
        known = weights == self._fingerprint != "" and bool(self.history) and self.history[-1]["epoch"] == epoch
        if known and (self._solved or not full):
            return None
        self._fingerprint, self._solved = weights, full
        return {"epoch": epoch, "step": int(trainer.global_step)} | self._estimate(
            model, full, progress=trainer.progress_bar_callback is not None
        )

    def _estimate(self, model: nn.Module, full: bool, progress: bool) -> Row:
        """The bound as plain values. Nothing that goes wrong here may end the training."""
        started = time.monotonic()
        reasons = []
        # What fails as configured may still give a product bound, or what the last multipliers prove.
        for config, optimise in ((self.config, full), (DCPConfig(), False)):
            try:
                report = self._certify(model, config, optimise, progress)
            except Exception as error:
                _log.debug("certify failed", exc_info=True)
                reasons.append(f"{type(error).__name__}: {error}")
                continue
            self.last_report, self._warm_start = report, report.warm_start
            status = f"fallback: {reasons[0]}" if reasons else str(report.status)
            if status.startswith("fallback"):
                self._warn(f"The bound is looser than it could be, training goes on. {status}")
            return {
                "bound": float(report.bound),
                "product_bound": float(report.product_bound),
                "lower_bound": float(report.lower_bound),
                "tightness": float(report.tightness),
                "seconds": float(report.seconds),
                "status": status,
                "digest": str(report.certificate.digest),
            }
        self._warn(
            f"The network could not be bounded, training goes on and {self.log_prefix}/bound is logged as infinite. "
            f"{reasons[0]}"
        )
        return {
            "bound": math.inf,  # a true upper bound, and monitors find their key
            "product_bound": math.inf,
            "lower_bound": 0.0,
            "tightness": 0.0,
            "seconds": time.monotonic() - started,
            "status": f"failed: {reasons[0]}",
            "digest": None,
        }

    def _certify(self, model: nn.Module, config: DCPConfig, optimise: bool, progress: bool) -> Report:
        if self._shape is None:
            raise ValueError(
                "the input shape is not known, because no tensor of floats was found in the training batch. "
                f"Pass {type(self).__name__}(input_shape=...) or set example_input_array."
            )
        with torch.random.fork_rng(devices=[]), eval_mode(model):
            return certify(
                model,
                self._shape,
                config,
                warm_start=self._warm_start,
                progress=progress,
                data=self._data,
                optimise=optimise,
            )

    def _check_configuration(self, model: nn.Module) -> None:
        """Refuse settings that do not fit the network before training, where they would cost every bound."""
        try:
            with torch.random.fork_rng(devices=[]), eval_mode(model):
                plan(model, self._shape or (), self.config)
        except ConfigError as error:
            raise self._configuration_error(str(error)) from error
        except LipguardError as error:  # the first measurement tells
            _log.debug("The network cannot be planned: %s", error)

    def _log(self, pl_module: Any, row: Row) -> None:
        device = pl_module.device
        # Lightning makes Python floats float32, which may round an upper bound down. Loggers narrow tensors too, so
        # the value is rounded the safe way beforehand; then a device without float64 keeps it as well.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        for name in _LOGGED:
            pl_module.log(
                f"{self.log_prefix}/{name}",
                torch.tensor(_narrowed(row[name], up=name in _ROUNDED_UP), dtype=dtype, device=device),
                prog_bar=name == "bound",
                reduce_fx="max",
                batch_size=1,
                sync_dist=True,  # equal on all ranks already; without it Lightning warns
                add_dataloader_idx=False,
            )
        self._logged = True

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            rank_zero_warn(f"{type(self).__name__}: {message}")


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, Sequence)
        and len(shape) > 0
        and all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in shape)
    )


def _narrowed(value: float, *, up: bool) -> float:
    if abs(value) > torch.finfo(torch.float32).max:
        return value  # a logger that narrows makes it infinite; monitors still see the number
    return to_float32_up(value) if up else to_float32_down(value)
