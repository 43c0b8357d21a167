"""Networks that are trained here on MNIST, and their like with torch's initialisation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

from torch import nn

from .sample import Sample
from .training import Training, coloured, mnist


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


def builders() -> dict[str, Callable[[], Sample]]:
    """What trains each network, by name."""
    return {name: partial(_train, name) for name in _TRAINED}


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
