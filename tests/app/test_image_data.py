from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from lipguard.app.data.images import DigitsData, EpochShuffle, IdxData, ImageData
from lipguard.errors import ConfigError

RANDOM = np.random.default_rng(0)


def write_pair(folder: Path, part: str, count: int, dash: str = "-", compress: bool = False) -> None:
    images = RANDOM.integers(0, 256, (count, 6, 5), dtype=np.uint8)
    images[0, 0, :2] = 0, 255
    labels = np.arange(count, dtype=np.uint8) % 10
    for name, array in ((f"images{dash}idx3", images), (f"labels{dash}idx1", labels)):
        content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
        path = folder / f"{part}-{name}-ubyte{'.gz' if compress else ''}"
        path.write_bytes(gzip.compress(content) if compress else content)


def batches(data: ImageData) -> tuple[list, list]:
    data.setup("fit")
    return list(data.train_dataloader()), list(data.val_dataloader())


def stacked(data: ImageData) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    train, validation = batches(data)
    images, labels = (torch.cat(column) for column in zip(*train, strict=True))
    held_images, held_labels = (torch.cat(column) for column in zip(*validation, strict=True))
    return images, labels, held_images, held_labels


def test_digits_have_the_promised_shape_and_range() -> None:
    data = DigitsData()
    images, labels, held_images, held_labels = stacked(data)
    assert images.shape == (1437, 1, 8, 8)
    assert held_images.shape == (360, 1, 8, 8)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert (images.min(), images.max()) == (0, 1)
    assert data.input_shape == (1, 8, 8)
    assert data.num_classes == 10
    assert data.train_dataloader().num_workers == 0
    counts = torch.bincount(held_labels)
    assert counts.min() >= 34  # stratified: of every digit about a tenth of 360
    assert counts.max() <= 38


def test_digits_split_depends_on_the_seed_alone() -> None:
    first, again, other = (stacked(DigitsData(seed=seed)) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[2], other[2])


def test_order_changes_with_the_epoch_and_can_be_resumed() -> None:
    whole = EpochShuffle(20, seed=1)
    orders = []
    for epoch in range(3):
        whole.set_epoch(epoch)
        orders.append(list(whole))
    resumed = EpochShuffle(20, seed=1)
    resumed.set_epoch(2)
    assert list(resumed) == orders[2]
    assert orders[0] != orders[1]
    assert all(sorted(order) == list(range(20)) for order in orders)


@pytest.mark.parametrize(("dash", "compress"), [("-", False), ("-", True), (".", False), (".", True)])
def test_idx_pairs_under_their_usual_names(tmp_path: Path, dash: str, compress: bool) -> None:
    write_pair(tmp_path, "train", 30, dash, compress)
    write_pair(tmp_path, "t10k", 12, dash, compress)
    data = IdxData(tmp_path, batch_size=7)
    images, _, held_images, held_labels = stacked(data)
    assert len(images) == 30
    assert held_labels.tolist() == [*range(10), 0, 1]
    assert data.input_shape == (1, 6, 5)
    assert held_images[0, 0, 0, :2].tolist() == [0, 1]


def test_idx_test_pair_alone_is_split(tmp_path: Path) -> None:
    write_pair(tmp_path, "t10k", 100)
    images, _, held_images, held_labels = stacked(IdxData(str(tmp_path)))
    assert (len(images), len(held_images)) == (90, 10)
    assert held_labels.tolist() == list(range(10))  # the last ones


def test_idx_without_a_folder_or_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"data.root to be a folder, but there is none at {tmp_path / 'none'}"):
        IdxData(tmp_path / "none").setup()
    with pytest.raises(ConfigError, match=rf"{tmp_path}: expected one of the files t10k-images-idx3-ubyte, "):
        IdxData(tmp_path).setup()
    write_pair(tmp_path, "t10k", 20)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ConfigError, match="expected one of the files t10k-labels-idx1-ubyte, "):
        IdxData(tmp_path).setup()


def test_half_a_training_pair_is_not_passed_over(tmp_path: Path) -> None:
    write_pair(tmp_path, "t10k", 20)
    write_pair(tmp_path, "train", 20)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    with pytest.raises(ConfigError, match="expected one of the files train-images-idx3-ubyte, "):
        IdxData(tmp_path).setup()


def test_too_few_images_to_split(tmp_path: Path) -> None:
    write_pair(tmp_path, "t10k", 9)
    with pytest.raises(ConfigError, match="at least 10 images to split, but found 9"):
        IdxData(tmp_path).setup()


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        DigitsData(batch_size=0)
    with pytest.raises(ConfigError, match="validation_fraction between 0 and 1"):
        DigitsData(validation_fraction=1.0)
    with pytest.raises(ConfigError, match=r"validation_fraction=0.001"):
        DigitsData(validation_fraction=0.001).setup()


def test_images_are_not_there_before_setup() -> None:
    with pytest.raises(RuntimeError, match="setup"):
        DigitsData().train_dataloader()
