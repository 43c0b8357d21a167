"""Certificate files: an archive of plain arrays, as `numpy.savez` writes it. Nothing in one is executed or unpacked.

A file may come from anybody. So members are stored, not compressed, of known names and types, and together no larger
than the file: what is allocated is never more than what was sent.
"""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipguard.errors import CertificateError

Array = NDArray[np.float64]
_METADATA = "metadata"
_NAMES = re.compile(rf"({_METADATA}|t_\d{{1,9}}_\d{{1,9}}|s_\d{{1,9}}|domain_[a-z]{{1,9}})\.npy")
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)\{'descr': '(?P<dtype><f8|\|u1)', 'fortran_order': (?:False|True), "
    rb"'shape': \((?P<entries>\d{1,18}),\), \} *\n",
    re.DOTALL,
)
_MOST_METADATA = 2**26  # bytes


def write(path: Path, metadata: str, arrays: Mapping[str, Array]) -> None:
    """Write a file at once or not at all.

    Raises:
        OSError: it cannot be written; an older file of that name is left as it was.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            text = np.frombuffer(metadata.encode(), dtype=np.uint8)
            np.savez(file, **{_METADATA: text}, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(path: Path) -> tuple[str, dict[str, Array]]:
    """(metadata, arrays by name) of a file.

    Raises:
        CertificateError: the file is missing, damaged or not a certificate.
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check(members, os.fstat(file.fileno()).st_size)
            found = {info.filename.removesuffix(".npy"): _array(archive.read(info)) for info in members}
        return bytes(found.pop(_METADATA)).decode(), found
    except _DAMAGED as error:
        raise CertificateError(f"{path} is not a readable certificate: {error}") from error


# What the standard library raises for archives that are damaged, encrypted, or of a kind that it does not know.
_DAMAGED = (
    OSError, ValueError, KeyError, EOFError, RuntimeError, NotImplementedError, MemoryError, OverflowError,
    zipfile.BadZipFile,
)  # fmt: skip


def _check(members: list[zipfile.ZipInfo], size: int) -> None:
    names = [info.filename for info in members]
    strange = [name for name in names if not _NAMES.fullmatch(name)]
    if strange or len(set(names)) < len(names) or f"{_METADATA}.npy" not in names:
        raise ValueError(
            f"expected {_METADATA}.npy and arrays t_I_J.npy and s_I.npy, once each, but found {strange or names}"
        )
    if any(info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size for info in members):
        raise ValueError("its members are compressed")
    if sum(info.file_size for info in members) > size:
        raise ValueError("its members claim to be larger than the file")


def _array(data: bytes) -> NDArray[Any]:
    """A vector of numbers in numpy's format; the metadata's bytes count as such. numpy's own reader takes far more."""
    header = _HEADER.match(data)
    if header is None:
        raise ValueError(f"expected vectors of float64 in numpy's format, but an array begins with {data[:80]!r}")
    dtype, entries = np.dtype(header["dtype"].decode()), int(header["entries"])
    rest = data[header.end() :]
    if len(header[0]) != 10 + int.from_bytes(header["length"], "little") or len(rest) != entries * dtype.itemsize:
        raise ValueError(f"an array claims {entries} entries, and has {len(rest)} bytes")
    if dtype.itemsize == 1 and len(rest) > _MOST_METADATA:
        raise ValueError(f"it has {len(rest)} bytes of metadata")
    return np.frombuffer(rest, dtype=dtype).copy()
