"""Training on MNIST, deterministically."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from lipguard.app.data.idx import read_pair

MNIST = Path(os.environ.get("LIPGUARD_MNIST", Path(__file__).parents[4] / "shared" / "data" / "mnist"))
TRAINED_ON = 9000  # images of the file; the rest gives the accuracy


class Training:
    """Adam, batches of 64, seed 0."""

    def __init__(self, build: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> None:
        torch.manual_seed(0)
        self.model = build().eval()
        self.images, self.labels = images, labels
        self.optimiser = torch.optim.Adam(self.model.parameters(), 1e-3)
        self.order = torch.Generator().manual_seed(0)

    def epoch(self) -> list[float]:
        """One epoch; the seconds of every step."""
        self.model.train()
        seconds = []
        for batch in torch.split(torch.randperm(TRAINED_ON, generator=self.order), 64):
            start = time.perf_counter()
            loss = nn.functional.cross_entropy(self.model(self.images[batch]), self.labels[batch])
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            seconds.append(time.perf_counter() - start)
        self.model.eval()
        return seconds

    def one_epoch_later(self) -> nn.Module:
        """A copy of the model after another epoch."""
        self.epoch()
        return copy.deepcopy(self.model)

    @torch.no_grad()
    def accuracy(self) -> float:
        """On the images that it is not trained on."""
        found = self.model(self.images[TRAINED_ON:]).argmax(1) == self.labels[TRAINED_ON:]
        return float(found.float().mean())


def mnist() -> tuple[Tensor, Tensor]:
    """Images (n, 1, 28, 28) in [0, 1] and labels, of the 10,000 test images."""
    pixels, labels = read_pair(MNIST / "t10k-images-idx3-ubyte.gz", MNIST / "t10k-labels-idx1-ubyte.gz")
    return torch.tensor(pixels).float().div(255).unsqueeze(1), torch.tensor(labels).long()


def coloured(images: Tensor) -> Tensor:
    """Images of 32x32, each in one random colour: (n, 3, 32, 32)."""
    colours = torch.rand(len(images), 3, 1, 1, generator=torch.Generator().manual_seed(0))
    return nn.functional.pad(images, (2, 2, 2, 2)) * colours
