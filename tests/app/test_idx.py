from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from lipguard.app.data.idx import read_images, read_labels, read_pair
from lipguard.errors import ConfigError

IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([7, 0, 9], dtype=np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_reads_what_was_written(tmp_path: Path, pack) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(pack(idx_bytes(IMAGES)))
    labels.write_bytes(pack(idx_bytes(LABELS)))
    found_images, found_labels = read_pair(images, labels)
    np.testing.assert_array_equal(found_images, IMAGES)
    np.testing.assert_array_equal(found_labels, LABELS)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("kept", [0, 3, 16, 40, 75])
def test_truncated_content_tells_expected_and_found(tmp_path: Path, pack, kept: int) -> None:
    path = tmp_path / "images"
    path.write_bytes(pack(idx_bytes(IMAGES)[:kept]))
    expected = 16 if kept < 16 else 76
    with pytest.raises(ConfigError, match=rf"{path}: expected .*{expected} bytes.* found {kept}"):
        read_images(path)


def test_truncated_gzip_file(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 50), dtype=np.uint8)
    path.write_bytes(gzip.compress(idx_bytes(noise))[:3000])
    with pytest.raises(ConfigError, match=rf"{path}: expected 6016 bytes \(3x40x50 and header\), but found"):
        read_images(path)


def test_damaged_gzip_file(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    content = bytearray(gzip.compress(idx_bytes(IMAGES)))
    content[-6] ^= 255  # the checksum
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{path}: expected a gzip file, but it is damaged"):
        read_images(path)


def test_surplus_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(IMAGES) + b"\0")
    with pytest.raises(ConfigError, match=r"expected 76 bytes .* found 77"):
        read_images(path)


def test_wrong_magic_number(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(IMAGES))
    with pytest.raises(ConfigError, match=rf"{path}: expected the magic number 2049, but found 2051"):
        read_labels(path)


def test_different_counts(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(idx_bytes(IMAGES))
    labels.write_bytes(idx_bytes(LABELS[:2]))
    with pytest.raises(ConfigError, match=rf"{labels}: expected 3 labels for {images}, but found 2"):
        read_pair(images, labels)


def test_no_entries(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(IMAGES[:0]))
    with pytest.raises(ConfigError, match="at least one entry"):
        read_images(path)


def test_missing_file_and_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{tmp_path / 'none'}: cannot be read \(No such file"):
        read_images(tmp_path / "none")
    with pytest.raises(ConfigError, match=rf"{tmp_path}: cannot be read"):
        read_images(tmp_path)
