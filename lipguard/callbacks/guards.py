"""Trainers that are refused, because they would save other weights than are bounded; settings that do not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lipguard.callbacks.harmless import attempted
from lipguard.callbacks.observed import is_a
from lipguard.callbacks.settings import MonitorSettings
from lipguard.certifying.certify import plan
from lipguard.config import DCPConfig
from lipguard.errors import ConfigError
from lipguard.trusted.reading.choice import Reading
from lipguard.trusted.reading.private import random_states_kept

_SHARDED = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")


@dataclass(frozen=True)
class Watched:
    """What a trainer's checkpoints ask of a monitor.

    Attributes:
        names: of the keys that they monitor, without the prefix.
        every_n_steps: after how many steps they save, of those that count steps.
    """

    names: frozenset[str]
    every_n_steps: tuple[int, ...]


def check_trainer(trainer: Any, monitor: Any, settings: MonitorSettings) -> Watched:
    """Refuse trainers in which the logged bound would not belong to the weights that are saved.

    Raises:
        ConfigError: it has sharded weights, weights that are averaged later, a checkpoint that is triggered by time, or
            one that monitors what is known later.
    """
    name, prefix = type(monitor).__name__, settings.log_prefix
    if is_a(trainer.strategy, *_SHARDED):
        raise ConfigError(
            f"{name} needs all weights in one process, but {type(trainer.strategy).__name__} shards them."
        )
    watching = [checkpoint for checkpoint in trainer.checkpoint_callbacks if _monitors(checkpoint, prefix)]
    if any(getattr(checkpoint, "_train_time_interval", None) is not None for checkpoint in watching):
        raise ConfigError(
            f"ModelCheckpoint(train_time_interval=...) would save weights with the {prefix} bound of "
            "earlier ones. Use every_n_epochs or every_n_train_steps."
        )
    if settings.background:
        readers = [*watching, *(own for own in trainer.early_stopping_callbacks if _monitors(own, prefix))]
        if readers:
            raise ConfigError(
                f"With background=True the bound of an epoch is known later than {prefix}/bound would be "
                f"read by {type(readers[0]).__name__}. Use background=False, or choose among the "
                "checkpoints afterwards."
            )
    steps = (getattr(checkpoint, "_every_n_train_steps", 0) for checkpoint in watching)
    names = frozenset(str(checkpoint.monitor).removeprefix(f"{prefix}/") for checkpoint in watching)
    return Watched(names, tuple(n for n in steps if n >= 1))


def come_after_averaging(trainer: Any, monitor: Any) -> None:
    """Move a monitor behind the callbacks that average weights: checkpoints store what they leave.

    The list is replaced, for Lightning may be walking through the old one.
    """
    averaging = [callback for callback in trainer.callbacks if is_a(callback, "WeightAveraging")]
    if averaging and trainer.callbacks.index(monitor) < trainer.callbacks.index(averaging[-1]):
        others = [callback for callback in trainer.callbacks if callback is not monitor]
        k = others.index(averaging[-1]) + 1
        trainer.callbacks = [*others[:k], monitor, *others[k:]]


def _monitors(callback: Any, prefix: str) -> bool:
    return str(getattr(callback, "monitor", "")).startswith(f"{prefix}/")


def check_settings(model: nn.Module, input_shape: tuple[int, ...], config: DCPConfig, reading: Reading) -> None:
    """Refuse settings that do not fit the network before training, where they would cost every bound.

    Raises:
        ConfigError: they do not. A network that cannot be planned at all is left to the first measurement, which tells.
    """
    refusal = attempted(lambda reason: None, _refusal, model, input_shape, config, reading)
    if refusal is not None:
        raise refusal


def _refusal(model: nn.Module, input_shape: tuple[int, ...], config: DCPConfig, own: Reading) -> ConfigError | None:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with random_states_kept(device):
        try:
            plan(model, input_shape, config, output=own.output, input=own.input, fixed=own.fixed)
        except ConfigError as error:
            return error
    return None
