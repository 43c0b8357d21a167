"""The hooks of a trainer that validates or tests without training: what it logs is about the weights as they are."""

from __future__ import annotations

from typing import Any

from lipguard.callbacks.certified import Certified
from lipguard.callbacks.foreground import Foreground
from lipguard.callbacks.harmless import harmless
from lipguard.callbacks.messages import Messages
from lipguard.callbacks.observed import Inputs
from lipguard.callbacks.schedule import Moment
from lipguard.trusted.reading.private import random_states_kept


class EvaluationHooks:
    """What a monitor does in `trainer.validate` and `trainer.test`; a validation inside a fit is none of it."""

    _messages: Messages
    _inputs: Inputs
    _certified: Certified
    _evaluated: Foreground

    def _prepare(self, trainer: Any, pl_module: Any) -> None:
        raise NotImplementedError

    @harmless
    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take the input shape off the first batch, and look at the logits from there on."""
        if _is_first(trainer, batch_idx, dataloader_idx):
            self._prepare(trainer, pl_module)
            self._inputs.see(batch)
            self._certified.begin(trainer, pl_module)

    @harmless
    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """As for a validation."""
        self.on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)

    @harmless
    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the logits, with the labels."""
        self._certified.add(trainer, pl_module, batch)

    @harmless
    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log what is known of the weights that were tested."""
        self._evaluate(trainer, pl_module)

    def _evaluate(self, trainer: Any, pl_module: Any) -> None:
        self._certified.end()
        if not trainer.barebones:
            with random_states_kept(pl_module.device):
                self._evaluated.evaluate(trainer, pl_module, Moment.now(trainer, validated=True, evaluates=True))


def _is_first(trainer: Any, batch_idx: int, dataloader_idx: int) -> bool:
    """Whether it is the first batch where nothing is trained."""
    return trainer.state.fn in ("validate", "test") and batch_idx == dataloader_idx == 0 and not trainer.barebones
