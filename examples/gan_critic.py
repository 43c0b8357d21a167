"""The critic of a Wasserstein GAN, bounded while both networks train: its constant is what the distance is divided by.

python examples/gan_critic.py
"""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lipguard import LipschitzMonitor


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(-1)  # one number per sample


class Gan(pl.LightningModule):
    def __init__(self, clip: float = 0.3) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
        self.critic, self.clip = Critic(), clip

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        generator, critic = self.optimizers()
        fake = self(torch.randn(len(real), 4))
        self.step(critic, self.critic(fake.detach()).mean() - self.critic(real).mean())
        for weight in self.critic.parameters():
            weight.data.clamp_(-self.clip, self.clip)
        self.step(generator, -self.critic(fake).mean())

    def step(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss, retain_graph=True)
        optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.RMSprop(part.parameters(), lr=0.005) for part in (self.generator, self.critic)]


if __name__ == "__main__":
    pl.seed_everything(0, verbose=False)
    angles = 6.283 * torch.rand(512)
    real = torch.stack([angles.cos(), angles.sin()], 1)
    monitor = LipschitzMonitor(module="critic")
    trainer = pl.Trainer(max_epochs=4, accelerator="cpu", callbacks=[monitor], logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    model = Gan()
    trainer.fit(model, DataLoader(TensorDataset(real), 64, shuffle=True))
    for row in monitor.history:
        print("epoch {epoch}: critic {lower_bound:.3f} <= L <= {bound:.3f}".format(**row))
    with torch.no_grad():  # E f(real) - E f(fake) <= L W1: over the bound it is a lower bound of the distance
        difference = float(model.critic(real).mean() - model.critic(model(torch.randn(512, 4))).mean())
    print(f"W1 of the samples is at least {difference / monitor.history[-1]['bound']:.3f}")
