"""Images to train on, held in memory: no worker processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

from lipguard.app.data.idx import read_pair
from lipguard.errors import ConfigError

Pairs = tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]


class ImageData(pl.LightningDataModule, ABC):
    """Grey images of shape (1, rows, columns), float32 in [0, 1], with integer labels.

    Args:
        batch_size: images per step.
        seed: seed of the order of the images, which is a function of seed and epoch alone.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, batch_size: int = 64, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"Expected data.batch_size to be at least 1, but got {batch_size}.")
        self.batch_size, self.seed = batch_size, seed
        self._train: TensorDataset | None = None
        self._validation: TensorDataset | None = None

    @abstractmethod
    def read(self) -> tuple[Pairs, Pairs, int]:
        """Images and labels to train on, the same to validate on, and the value that stands for white."""

    def setup(self, stage: str | None = None) -> None:
        """Read the images, once.

        Raises:
            ConfigError: they cannot be read.
        """
        if self._train is None:
            train, validation, white = self.read()
            self._train, self._validation = _dataset(train, white), _dataset(validation, white)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image, (1, rows, columns)."""
        return tuple(_read(self._train).tensors[0].shape[1:])

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return 1 + max(int(_read(part).tensors[1].max()) for part in (self._train, self._validation))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches in a new order every epoch."""
        dataset = _read(self._train)
        return DataLoader(dataset, self.batch_size, sampler=EpochShuffle(len(dataset), self.seed))

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches in the order of the data."""
        return DataLoader(_read(self._validation), self.batch_size)


class DigitsData(ImageData):
    """scikit-learn's embedded handwritten digits, 8x8, in a stratified split.

    Args:
        batch_size: images per step.
        validation_fraction: the part of the 1,797 images that is not trained on.
        seed: seed of the split and of the order of the images.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, batch_size: int = 64, validation_fraction: float = 0.2, seed: int = 0) -> None:
        super().__init__(batch_size, seed)
        if not 0 < validation_fraction < 1:
            raise ConfigError(f"Expected data.validation_fraction between 0 and 1, but got {validation_fraction}.")
        self.validation_fraction = validation_fraction

    def read(self) -> tuple[Pairs, Pairs, int]:
        """The digits, whose pixels go from 0 to 16."""
        try:
            from sklearn.datasets import load_digits
            from sklearn.model_selection import train_test_split
        except ModuleNotFoundError as error:
            raise ConfigError('data=digits needs scikit-learn: pip install "lipguard[app]".') from error
        images, labels = load_digits(return_X_y=True)
        images = images.reshape(-1, 8, 8).astype(np.uint8)
        try:
            train_images, held_images, train_labels, held_labels = train_test_split(
                images, labels, test_size=self.validation_fraction, stratify=labels, random_state=self.seed
            )
        except ValueError as error:  # a part too small to hold every digit
            raise ConfigError(f"data.validation_fraction={self.validation_fraction}: {error}") from error
        return (train_images, train_labels), (held_images, held_labels), 16


class IdxData(ImageData):
    """Images and labels in IDX files, plain or gzip, under the names that MNIST is published with.

    Where the folder has the ``train`` and the ``t10k`` pair, the one is trained on and the other validated on. Where
    it has the ``t10k`` pair alone, its last tenth is validated on (of MNIST's 10,000 images, the last 1,000).

    Args:
        root: the folder.
        batch_size: images per step.
        seed: seed of the order of the images.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, root: str | Path, batch_size: int = 64, seed: int = 0) -> None:
        super().__init__(batch_size, seed)
        self.root = Path(root)

    def read(self) -> tuple[Pairs, Pairs, int]:
        """The images of the folder, whose pixels go from 0 to 255."""
        if not self.root.is_dir():
            raise ConfigError(f"Expected data.root to be a folder, but there is none at {self.root.absolute()}.")
        held = self._pair("t10k")
        if self._find("train", "images", 3) or self._find("train", "labels", 1):
            return self._pair("train"), held, 255
        images, labels = held
        count = len(images) // 10
        if count == 0:
            raise ConfigError(f"{self.root}: expected at least 10 images to split, but found {len(images)}.")
        return (images[:-count], labels[:-count]), (images[-count:], labels[-count:]), 255

    def _pair(self, part: str) -> Pairs:
        paths = []
        for content, axes in (("images", 3), ("labels", 1)):
            path = self._find(part, content, axes)
            if path is None:
                names = ", ".join(_names(part, content, axes))
                raise ConfigError(f"{self.root.absolute()}: expected one of the files {names}, but found none of them.")
            paths.append(path)
        return read_pair(*paths)

    def _find(self, part: str, content: str, axes: int) -> Path | None:
        paths = (self.root / name for name in _names(part, content, axes))
        return next((path for path in paths if path.is_file()), None)


class EpochShuffle(Sampler[int]):
    """A permutation that depends on seed and epoch only, so that a resumed run goes on as the whole run would.

    Args:
        count: how many indices to permute.
        seed: seed of all permutations.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self.seed, self.epoch))
        return iter(generator.permutation(self.count).tolist())


def _names(part: str, content: str, axes: int) -> list[str]:
    return [f"{part}-{content}{dash}idx{axes}-ubyte{end}" for dash in "-." for end in ("", ".gz")]


def _dataset(pairs: Pairs, white: int) -> TensorDataset:
    images, labels = pairs
    pixels = torch.from_numpy(images.astype(np.float32) / white).unsqueeze(1)  # (count, 1, rows, columns)
    return TensorDataset(pixels, torch.from_numpy(labels.astype(np.int64)))


def _read(dataset: TensorDataset | None) -> TensorDataset:
    if dataset is None:
        raise RuntimeError("The images are not read yet: call setup() first.")
    return dataset
