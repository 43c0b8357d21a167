"""Measurements that are known at once: the training waits, and monitors see the bound of what they judge."""

from __future__ import annotations

from typing import Any

from torch import nn

from lipguard.callbacks.bounded import Bounded
from lipguard.callbacks.certified import Certified
from lipguard.callbacks.loggers import Loggers
from lipguard.callbacks.measuring import Measuring
from lipguard.callbacks.messages import Messages
from lipguard.callbacks.observed import fingerprint
from lipguard.callbacks.record import Record
from lipguard.callbacks.rows import Row, log
from lipguard.callbacks.schedule import Moment
from lipguard.callbacks.settings import MonitorSettings


class Foreground:
    """One process computes, all log: keys must match on all ranks."""

    def __init__(
        self, settings: MonitorSettings, record: Record, bounded: Bounded, measuring: Measuring, certified: Certified,
        loggers: Loggers, messages: Messages,
    ) -> None:  # fmt: skip
        self.settings, self._record, self._bounded, self._measuring = settings, record, bounded, measuring
        self._certified, self._loggers, self._messages = certified, loggers, messages

    def measure(self, trainer: Any, module: Any, moment: Moment) -> None:
        """Measure the current weights, unless the last row is about them, and log what is known of them.

        Raises:
            KeyboardInterrupt: certify ended with what it had; the training was meant as well.
        """
        found = self._measuring.measure(trainer, module, moment) if trainer.is_global_zero else None
        found = trainer.strategy.broadcast(found)
        last, history = self._record.last, self._record.history
        unknown: Row = {}
        interrupted = False
        if found is not None:
            history.append(found.row)
            if moment.validated and self.settings.epsilons:
                added, unknown, interrupted = self._certified.completed(trainer, module, found.row)
                found.row.update(added)
        if found is not None or not last.logged:  # a resumed run has the row, but monitors need the key as well
            log(module, self.settings.log_prefix, history[-1] | unknown)
            last.logged = True
        if found is not None and trainer.is_global_zero:
            self._loggers.show_now_and_then(trainer, history, self._certified.curve)
        last.batch = moment.batch
        if interrupted or (found is not None and found.interrupted):
            raise KeyboardInterrupt

    def evaluate(self, trainer: Any, module: Any, moment: Moment) -> None:
        """Log what is known of the weights as they are, measured unless the last row is about them.

        Raises:
            KeyboardInterrupt: certify ended with what it had.
        """
        found = self._measuring.measure(trainer, module, moment) if trainer.is_global_zero else None
        found = trainer.strategy.broadcast(found)
        history = self._record.history
        if found is not None:
            history.append(found.row)
        added, unknown, interrupted = self._certified.completed(trainer, module, history[-1])
        if found is not None:
            found.row.update(added)
        log(module, self.settings.log_prefix, history[-1] | added | unknown)
        if interrupted or (found is not None and found.interrupted):
            raise KeyboardInterrupt

    def stored(self, trainer: Any, module: nn.Module) -> None:
        """Tell when weights are stored that were changed after they had been measured."""
        last = self._record.last
        if trainer.state.fn != "fit" or not trainer.is_global_zero or trainer.fit_loop.total_batch_idx != last.batch:
            return
        if fingerprint(self._bounded.of(trainer, module)) != last.fingerprint:
            self._messages.warn(
                "The weights were changed after the bound of this epoch had been computed (by on_train_epoch_end of "
                "the LightningModule, or a later callback): the checkpoint holds weights that its bound is not about. "
                "Change them in on_train_batch_end, or in a callback that is listed earlier."
            )

    def finish(self, trainer: Any) -> None:
        """Nothing is left to wait for."""

    def give_up(self, trainer: Any) -> None:
        """Nothing is left behind."""
