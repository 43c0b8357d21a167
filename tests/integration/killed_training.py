"""A training that resumes from its folder: `python killed_training.py FOLDER EPOCHS`."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from tiny_training import Batches, Tiny

from lipguard import LipschitzMonitor


def main(folder: Path, epochs: int) -> None:
    """Go on from the last checkpoint, if there is one."""
    warnings.simplefilter("ignore")
    monitor = LipschitzMonitor()
    last = folder / "last.ckpt"
    checkpoints = ModelCheckpoint(folder, monitor="lipschitz/bound", save_top_k=2, save_last=True)
    logger = CSVLogger(folder, "logs", flush_logs_every_n_steps=1)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=logger, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[monitor, checkpoints],
    )  # fmt: skip
    print("training", flush=True)
    trainer.fit(Tiny(lr=0.01), Batches(), Batches(), ckpt_path=last if last.exists() else None)
    print("epochs", *(row["epoch"] for row in monitor.history), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
