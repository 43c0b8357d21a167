"""LipschitzMonitor in a Trainer of one's own: two lines more than without it.

python examples/own_trainer.py
"""

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lipguard import LipschitzMonitor


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        logits = self(batch[0])
        self.log("train_acc", (logits.argmax(1) == batch[1]).float().mean(), on_step=False, on_epoch=True)
        return nn.functional.cross_entropy(logits, batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.005)


if __name__ == "__main__":
    pl.seed_everything(0)
    pixels, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels))

    monitor = LipschitzMonitor()
    # The smallest bound alone favours networks that have learned little: weigh it against accuracy.
    best = ModelCheckpoint(monitor="lipschitz/bound", mode="min", filename="{epoch}")
    trainer = pl.Trainer(max_epochs=5, accelerator="cpu", callbacks=[monitor, best])
    trainer.fit(Classifier(), DataLoader(data, batch_size=64, shuffle=True))

    for row in monitor.history:
        print("epoch {epoch}: {lower_bound:.2f} <= L <= {bound:.2f} (norm product {product_bound:.2f})".format(**row))
    print(f"smallest bound: {best.best_model_path}")
