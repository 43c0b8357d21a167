"""The IDX file format of MNIST: a big-endian header and unsigned bytes, plain or gzip."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lipguard.errors import ConfigError

_IMAGES_MAGIC = 2051  # unsigned bytes, three axes: images, rows, columns
_LABELS_MAGIC = 2049  # unsigned bytes, one axis


def read_images(path: Path) -> npt.NDArray[np.uint8]:
    """Images of shape (count, rows, columns).

    Raises:
        ConfigError: the file is missing, truncated or not a file of images; the message names the file.
    """
    return _read(path, _IMAGES_MAGIC, axes=3)


def read_labels(path: Path) -> npt.NDArray[np.uint8]:
    """Labels of shape (count,).

    Raises:
        ConfigError: the file is missing, truncated or not a file of labels; the message names the file.
    """
    return _read(path, _LABELS_MAGIC, axes=1)


def read_pair(images_path: Path, labels_path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images and their labels.

    Raises:
        ConfigError: one of the files is not as it should be, or they do not belong together.
    """
    images, labels = read_images(images_path), read_labels(labels_path)
    if len(images) != len(labels):
        raise ConfigError(f"{labels_path}: expected {len(images)} labels for {images_path}, but found {len(labels)}.")
    return images, labels


def _read(path: Path, magic: int, axes: int) -> npt.NDArray[np.uint8]:
    content = _content(path)
    header = struct.Struct(f">{1 + axes}I")
    if len(content) < header.size:
        raise ConfigError(f"{path}: expected a header of {header.size} bytes, but found {len(content)} bytes in all.")
    found_magic, *shape = header.unpack_from(content)
    if found_magic != magic:
        raise ConfigError(f"{path}: expected the magic number {magic}, but found {found_magic}.")
    expected = header.size + math.prod(shape)
    if len(content) != expected:
        size = "x".join(map(str, shape))
        raise ConfigError(f"{path}: expected {expected} bytes ({size} and header), but found {len(content)}.")
    if 0 in shape:
        raise ConfigError(f"{path}: expected at least one entry, but found shape {tuple(shape)}.")
    return np.frombuffer(content, dtype=np.uint8, offset=header.size).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    if raw[:2] != b"\x1f\x8b":  # gzip's mark, which no IDX file starts with
        return raw
    stream = zlib.decompressobj(wbits=31)  # gzip; unlike the gzip module it keeps what precedes a cut
    try:
        return stream.decompress(raw)
    except zlib.error as error:
        raise ConfigError(f"{path}: expected a gzip file, but it is damaged ({error}).") from error
