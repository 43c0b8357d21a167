"""A network, data and a trainer small enough that a whole run with a solve per epoch takes about a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]

# Lightning 2.6 with torch 2.13
LIGHTNING_WARNINGS = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")

INPUT_SHAPE = (4,)
BATCHES = 3


class Batches:
    """Three classes in R^4, always in the same order. A DataLoader would bring its own warnings about workers."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(8 * BATCHES, *INPUT_SHAPE, generator=generator)
        self.batches = list(zip(x.split(8), x[:, :3].argmax(1).split(8), strict=True))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


class Tiny(pl.LightningModule):
    """4-6-3 with a ReLU; its norms grow while it learns."""

    def __init__(self, net: nn.Module | None = None, lr: float = 0.5) -> None:
        super().__init__()
        generator_state = torch.get_rng_state()
        torch.manual_seed(1)
        self.net = net or nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        torch.set_rng_state(generator_state)
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_acc", (self(x).argmax(1) == y).float().mean(), batch_size=len(y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def trainer(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    checkpoints = any(isinstance(callback, pl.callbacks.ModelCheckpoint) for callback in callbacks)
    defaults: dict[str, Any] = {
        "max_epochs": 3,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "log_every_n_steps": 1,
        "enable_checkpointing": checkpoints,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return pl.Trainer(callbacks=list(callbacks), **(defaults | options))


def fit(model: Tiny, fitter: pl.Trainer, data: Batches | None = None, **options: Any) -> Tiny:
    """Validates on what it trains on; `limit_val_batches=0` in the trainer goes without."""
    fitter.fit(model, data or Batches(), Batches(), **options)
    return model
