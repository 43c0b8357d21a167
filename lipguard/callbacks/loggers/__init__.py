"""What loggers show beside scalars: one row and one file for every kind of logger."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lipguard.callbacks.harmless import attempted
from lipguard.callbacks.loggers.logger import Logger
from lipguard.callbacks.loggers.tensorboard import TensorBoard
from lipguard.callbacks.loggers.wandb import Wandb
from lipguard.callbacks.messages import Messages
from lipguard.callbacks.observed import is_a
from lipguard.callbacks.recomputed import Curve
from lipguard.callbacks.record import Record
from lipguard.callbacks.rows import KEYS, Row

# By the name of Lightning's class, which both namespaces share.
LOGGERS: dict[str, type[Logger]] = {"TensorBoardLogger": TensorBoard, "WandbLogger": Wandb}

_BETWEEN_FIGURES = 30.0  # seconds


class Loggers:
    """A trainer's loggers. One that fails costs its figures, and a message says so.

    Args:
        prefix: of names.
        messages: where it is told.
    """

    def __init__(self, prefix: str, messages: Messages) -> None:
        self.prefix, self._messages = prefix, messages
        self._shown = -math.inf  # when figures were drawn

    def prepare(self, trainer: Any, epsilons: Sequence[float]) -> None:
        """Say what will be logged: with every bound, and of validations at these radii."""
        keys = {name: key for key in KEYS if key.when != "request" for name in key.names(epsilons)}
        self._each(trainer, lambda logger: logger.prepare(keys))

    def show(self, trainer: Any, history: Sequence[Row], curve: Curve | None) -> None:
        """Figures of what is known so far."""
        self._shown = time.monotonic()
        step = int(trainer.global_step)
        self._each(trainer, lambda logger: logger.show(step, history, curve))

    def show_now_and_then(self, trainer: Any, history: Sequence[Row], curve: Curve | None) -> None:
        """Figures, if the last ones are not of just now."""
        if time.monotonic() - self._shown > _BETWEEN_FIGURES:
            self.show(trainer, history, curve)

    def finish(self, trainer: Any, record: Record, curve: Curve | None) -> None:
        """Figures, and the certificate of the last weights, at the end of a fit."""
        self.show(trainer, record.history, curve)
        if record.warm_start is not None:
            certificate = record.warm_start.certificate
            self._each(trainer, lambda logger: logger.keep(certificate))

    def log_late(self, trainer: Any, values: Mapping[str, float], step: int) -> None:
        """Values of an earlier step, to loggers of all kinds."""
        for logger in trainer.loggers:
            attempted(self._lost, lambda own: own.log_metrics(dict(values), step=step), logger)

    def _each(self, trainer: Any, act: Callable[[Logger], None]) -> None:
        for logger in trainer.loggers:
            for name, kind in LOGGERS.items():
                if is_a(logger, name):
                    attempted(self._lost, lambda own, kind: act(kind(own.experiment, self.prefix)), logger, kind)

    def _lost(self, reason: str) -> None:
        self._messages.warn(f"A logger took no figures or artifacts, training goes on. {reason}")
