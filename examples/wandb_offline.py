"""Weights & Biases without a network connection: the smallest bound in the summary, the certificate as an artifact.

pip install wandb; python examples/wandb_offline.py
"""

import pytorch_lightning as pl
import torch
from penalty import Classifier
from pytorch_lightning.loggers import WandbLogger
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

from lipguard import LipschitzMonitor

if __name__ == "__main__":
    pl.seed_everything(0, verbose=False)
    pixels, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels))
    train, held_out = random_split(data, [0.8, 0.2], torch.Generator().manual_seed(0))
    monitor = LipschitzMonitor(estimate_every_n_steps=5)
    logger = WandbLogger(project="lipguard", offline=True)
    trainer = pl.Trainer(max_epochs=5, accelerator="cpu", callbacks=[monitor], logger=logger, log_every_n_steps=5)
    trainer.fit(Classifier(monitor, 0.01), DataLoader(train, 64, shuffle=True), DataLoader(held_out, 360))
    print(f"smallest bound: {logger.experiment.summary['lipschitz/bound']['min']:.3f}")
    print(f"send it later with: wandb sync {logger.experiment.dir.removesuffix('/files')}")
