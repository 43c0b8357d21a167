"""Train, keep every checkpoint, and choose by accuracy and certified bound; the choice is proved again.

python examples/select_checkpoint.py
"""

from pathlib import Path

import pytorch_lightning as pl
import torch
from penalty import Classifier
from pytorch_lightning.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

import lipguard
from lipguard import LipschitzMonitor


def rebuilt(path: Path) -> torch.nn.Module:
    """The network of a checkpoint."""
    model = Classifier(LipschitzMonitor(), 0.0)
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    return model.eval()


if __name__ == "__main__":
    pl.seed_everything(0, verbose=False)
    pixels, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels))
    train, held_out = random_split(data, [0.8, 0.2], torch.Generator().manual_seed(0))
    monitor, keep_all = LipschitzMonitor(), ModelCheckpoint("checkpoints", "{epoch}", save_top_k=-1)
    trainer = pl.Trainer(max_epochs=8, accelerator="cpu", callbacks=[monitor, keep_all], logger=False)
    trainer.fit(Classifier(monitor, 0.01), DataLoader(train, 64, shuffle=True), DataLoader(held_out, 360))

    print(lipguard.select(["checkpoints"], rebuilt, tolerance=0.01))
    print(lipguard.select(["checkpoints"], rebuilt, radius=0.25))
