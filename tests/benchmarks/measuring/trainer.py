"""What a training step takes in a Lightning Trainer."""

from __future__ import annotations

import copy
import itertools
import time
import warnings

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ..networks.training import TRAINED_ON, Training


class _Classifier(pl.LightningModule):
    """What a user has: a model, its loss and its optimiser."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


class _StepClock(pl.Callback):
    """When every step began."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, *arguments: object) -> None:
        self.starts.append(time.perf_counter())


def trainer_steps(training: Training) -> list[float]:
    """Seconds from step to step of an epoch in a Trainer that logs nothing, of a copy of the model."""
    clock = _StepClock()
    data = TensorDataset(training.images[:TRAINED_ON], training.labels[:TRAINED_ON])
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, callbacks=[clock], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # workers that load nothing from a disk would not help
        trainer.fit(_Classifier(copy.deepcopy(training.model).train()), DataLoader(data, 64, shuffle=True))
    return [later - start for start, later in itertools.pairwise(clock.starts)]
