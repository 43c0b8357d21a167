"""Networks for the benchmarks, by name: those of peers, and some trained here on MNIST, deterministically."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lipguard.app.data.idx import read_pair

from . import peers

_SHARED = Path(__file__).parents[4] / "shared"
PEERS = Path(os.environ.get("LIPGUARD_PEERS", _SHARED / "peers"))
MNIST = Path(os.environ.get("LIPGUARD_MNIST", _SHARED / "data" / "mnist"))
TRAINED_ON = 9000  # images of the file; the rest gives the accuracy
_OPTIMUM = {7: "LipSDP optimum, row 7", None: "LipSDP optimum, all outputs"}
_STACK_OPTIMUM = "LipSDP, power iteration, 14x14 / 28x28"


@dataclass(frozen=True)
class Sample:
    """A network to certify.

    Attributes:
        name: in tables.
        model: in eval mode.
        input_shape: of one sample.
        later: the same network a little later in training.
        optimum: LipSDP's, where it is known.
        accuracy: on images that it was not trained on, where it was trained here.
    """

    name: str
    model: nn.Module
    input_shape: tuple[int, ...]
    later: Callable[[], nn.Module]
    optimum: float | None = None
    accuracy: float | None = None


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


def cnn1() -> nn.Module:
    """CNN1 of the paper."""
    return nn.Sequential(
        nn.Conv2d(1, 5, 5), nn.ReLU(), nn.Conv2d(5, 5, 5), nn.ReLU(), nn.Flatten(),
        nn.Linear(2000, 50), nn.ReLU(), nn.Linear(50, 10),
    )  # fmt: skip


def _cnn2() -> nn.Module:
    """CNN2 of the paper, for 3x32x32."""
    layers: list[nn.Module] = []
    for channels in (3, 5, 5, 5, 5):
        layers += [nn.Conv2d(channels, 5, 3), nn.ReLU()]
    dense = [nn.Linear(5 * 22**2, 50), nn.ReLU(), nn.Linear(50, 100), nn.ReLU(), nn.Linear(100, 10)]
    return nn.Sequential(*layers, nn.Flatten(), *dense)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))


def _four_convolutions() -> nn.Module:
    return _convolutional((1, 28, 28), [(16, 1), (16, 1), (32, 1), (32, 1)], 100)


def _cifar_shaped() -> nn.Module:
    return _convolutional((3, 32, 32), [(32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1)], 256)


def _convolutional(shape: tuple[int, int, int], layers: list[tuple[int, int]], hidden: int) -> nn.Module:
    """3x3 convolutions, padding 1, of (channels, stride), then two linear layers."""
    modules: list[nn.Module] = []
    channels, size = shape[0], shape[1]
    for width, stride in layers:
        modules += [nn.Conv2d(channels, width, 3, stride, padding=1), nn.ReLU()]
        channels, size = width, size // stride
    return nn.Sequential(
        *modules, nn.Flatten(), nn.Linear(channels * size**2, hidden), nn.ReLU(), nn.Linear(hidden, 10)
    )


def mnist() -> tuple[Tensor, Tensor]:
    """Images (n, 1, 28, 28) in [0, 1] and labels, of the 10,000 test images."""
    pixels, labels = read_pair(MNIST / "t10k-images-idx3-ubyte.gz", MNIST / "t10k-labels-idx1-ubyte.gz")
    return torch.tensor(pixels).float().div(255).unsqueeze(1), torch.tensor(labels).long()


def coloured(images: Tensor) -> Tensor:
    """Images of 32x32, each in one random colour: (n, 3, 32, 32)."""
    colours = torch.rand(len(images), 3, 1, 1, generator=torch.Generator().manual_seed(0))
    return nn.functional.pad(images, (2, 2, 2, 2)) * colours


NETWORKS = {  # name: (network, its input shape)
    "CNN1": (cnn1, (1, 28, 28)),
    "four convolutions": (_four_convolutions, (1, 28, 28)),
    "CIFAR-shaped": (_cifar_shaped, (3, 32, 32)),
}
_TRAINED = {  # name: (network, epochs)
    "MLP 784-256-10": (_mlp, 3),
    "CNN1": (cnn1, 8),
    "CNN2": (_cnn2, 8),
    "four convolutions": (_four_convolutions, 2),
    "CIFAR-shaped": (_cifar_shaped, 1),
}


def samples(only: str, seeds: Sequence[int], note: Callable[[str], None]) -> Iterator[Sample]:
    """Networks whose name contains `only`; `note` is told of those that cannot be had."""
    for name, build in builders(seeds, note).items():
        if only.lower() in name.lower():
            yield build()


def builders(seeds: Sequence[int], note: Callable[[str], None]) -> dict[str, Callable[[], Sample]]:
    """What makes each network, by name; `note` is told of those that cannot be had."""
    peers_there, images_there = (PEERS / "load.py").exists(), MNIST.is_dir()
    if not peers_there:
        note(f"No networks of peers in {PEERS} (LIPGUARD_PEERS): left out.")
    if not images_there:
        note(f"No MNIST in {MNIST} (LIPGUARD_MNIST): networks that are trained on it are left out.")
    return (_peers(seeds) if peers_there else {}) | (_trained() if images_there else {})


def _peers(seeds: Sequence[int]) -> dict[str, Callable[[], Sample]]:
    names: dict[str, Callable[[], Sample]] = {}
    for family in ("fnn2", "fnn3", "cnn2", "cnn3"):
        for seed in seeds:
            for row, outputs in ((7, "row 7"), (None, "all")):
                name = f"{family} {seed}, {outputs}"
                names[name] = lambda f=family, s=seed, r=row, n=name: _digits(f, s, r, n)  # type: ignore[misc]
    for stack in ("cnn_C5_CH16", "cnn_C9_CH8"):
        names[stack] = lambda n=stack: _stack(n)  # type: ignore[misc]
    return names


def _digits(family: str, seed: int, row: int | None, name: str) -> Sample:
    model, shape = peers.load(PEERS).digits(family, seed, row)
    optimum = peers.known(PEERS, _OPTIMUM[row], family, str(seed))
    return Sample(name, model, shape, lambda: _perturbed(model), float(optimum) if optimum else None)


def _stack(name: str) -> Sample:
    model, shape = peers.load(PEERS).stack(name, 28)
    known = peers.known(PEERS, _STACK_OPTIMUM, name)
    optimum = float(known.split("/")[1].split("(")[0]) if known else None  # "33.10 / 35.09 (0.4 s / 0.7 s)"
    return Sample(name, model, shape, lambda: _perturbed(model), optimum)


@torch.no_grad()
def _perturbed(model: nn.Module) -> nn.Module:
    """Every weight with 1 % of relative Gaussian noise, where there is no data to train on."""
    model, noise = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.mul_(1 + 0.01 * torch.randn(weight.shape, generator=noise, dtype=weight.dtype))
    return model


def _trained() -> dict[str, Callable[[], Sample]]:
    return {name: lambda n=name: _train(n) for name in _TRAINED}  # type: ignore[misc]


def _train(name: str) -> Sample:
    build, epochs = _TRAINED[name]
    images, labels = mnist()
    if build in (_cnn2, _cifar_shaped):
        images = coloured(images)
    training = Training(build, images, labels)
    for _ in range(epochs):
        training.epoch()
    model, shape = copy.deepcopy(training.model), tuple(images.shape[1:])
    return Sample(name, model, shape, training.one_epoch_later, accuracy=training.accuracy())
