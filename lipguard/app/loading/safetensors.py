"""Files of safetensors: a header of JSON, and numbers as they are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from lipguard.errors import ConfigError

_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_LONGEST_HEADER = 100_000_000  # bytes, as the format has it


def tensors_of(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, by name.

    Raises:
        ConfigError: it is damaged, or holds another type of numbers.
    """
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(len(content) - 8, _LONGEST_HEADER):
        raise ConfigError(f"{path}: it is no file of safetensors, or is damaged.")
    try:
        header = json.loads(content[8 : 8 + length])
        named = {name: entry for name, entry in header.items() if name != "__metadata__"}
        numbers = bytearray(content[8 + length :])
        return {name: _tensor(entry, numbers) for name, entry in named.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ConfigError(f"{path}: it is no file of safetensors, or is damaged ({error}).") from error


def _tensor(entry: dict[str, object], numbers: bytearray) -> Tensor:
    kind, shape, ends = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in _TYPES:
        raise ValueError(f"numbers of type {kind} are not read")
    if not (isinstance(shape, list) and isinstance(ends, list) and all(isinstance(n, int) for n in [*shape, *ends])):
        raise ValueError("a shape or a place is no list of integers")
    dtype = _TYPES[str(kind)]
    start, stop = ends
    count = math.prod(shape)
    if min([*shape, start], default=0) < 0 or stop > len(numbers) or stop - start != count * dtype.itemsize:
        raise ValueError("a tensor is not where the header says")
    if not count:
        return torch.zeros(shape, dtype=dtype)
    return (
        torch.frombuffer(numbers, dtype=torch.uint8, count=stop - start, offset=start)
        .clone()
        .view(dtype)
        .reshape(shape)
    )
