"""A penalty on the Lipschitz constant: one line in the training step, accuracy that holds within a radius.

python examples/penalty.py
"""

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from lipguard import LipschitzMonitor


class Classifier(pl.LightningModule):
    def __init__(self, monitor: LipschitzMonitor, lam: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.monitor, self.lam = monitor, lam

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        return loss + self.lam * self.monitor.penalty() if self.lam else loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.005)


if __name__ == "__main__":
    pixels, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels))
    train, held_out = random_split(data, [0.8, 0.2], torch.Generator().manual_seed(0))
    for lam in (0.0, 0.01, 0.1):
        pl.seed_everything(0, verbose=False)
        monitor = LipschitzMonitor(every_n_epochs=10, epsilons=(0.25,))
        trainer = pl.Trainer(max_epochs=10, accelerator="cpu", callbacks=[monitor], enable_checkpointing=False,
                             logger=False, enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
        trainer.fit(Classifier(monitor, lam), DataLoader(train, 64, shuffle=True), DataLoader(held_out, 360))
        last = monitor.history[-1]
        print(
            f"lam {lam}: bound {last['bound']:.2f}, accuracy {last['accuracy']:.3f}, "
            f"certified within 0.25: {last['certified_accuracy_eps_0.25']:.3f}"
        )
