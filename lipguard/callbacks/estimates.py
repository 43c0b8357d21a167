"""The value of the relaxation while a network trains: as a penalty, and logged every few steps."""

from __future__ import annotations

from typing import Any

from torch import nn

from lipguard.callbacks.bounded import Bounded
from lipguard.callbacks.harmless import attempted
from lipguard.callbacks.messages import Messages
from lipguard.callbacks.observed import Inputs
from lipguard.callbacks.rows import ESTIMATE
from lipguard.callbacks.settings import MonitorSettings
from lipguard.errors import LipguardError
from lipguard.proposing.penalty import LipschitzPenalty


class Estimates:
    """The relaxation of the network of one fit."""

    def __init__(self, settings: MonitorSettings, inputs: Inputs, bounded: Bounded, messages: Messages) -> None:
        self.settings, self._inputs, self._bounded, self._messages = settings, inputs, bounded, messages
        self._module: nn.Module | None = None
        self._penalty: LipschitzPenalty | None = None

    def begin(self, module: nn.Module) -> None:
        """A fit begins."""
        self._module, self._penalty = module, None

    def penalty(self) -> LipschitzPenalty:
        """The value as a function of the weights.

        Raises:
            LipguardError: no training runs.
        """
        if self._module is None:
            raise LipguardError(f"{self._messages.name}.penalty() is for a training that runs: pass it to a Trainer.")
        if self._penalty is None:
            shape, seed = self._inputs.known_shape(), self.settings.config.seed
            part, own = self._bounded.within(self._module), self._bounded.reading
            self._penalty = LipschitzPenalty(
                part, shape, seed=seed, output=own.output, input=own.input, fixed=own.fixed
            )
        return self._penalty

    def log(self, module: Any) -> None:
        """One pass of a few vectors forth and back; gradients of the weights are not touched."""

        def lost(reason: str) -> None:
            self._messages.warn(f"Without an estimate per step. {reason}")

        value = attempted(lost, lambda: self.penalty().estimate())
        if value is not None:
            name = f"{self.settings.log_prefix}/{ESTIMATE.name}"
            module.log(name, value, batch_size=1, sync_dist=True, on_step=True)
