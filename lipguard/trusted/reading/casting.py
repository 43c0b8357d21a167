"""Precisions and devices: the function that is bounded is that of real numbers, whatever it is computed in.

Single and double precision are taken for it, as everywhere. Half precision is not: a network whose activations are
rounded to three digits is another function than the one that is compared, so the cast is to be left out. Whole numbers
jump.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lipguard.trusted.reading.builder import Builder, Kind, Ref
from lipguard.trusted.reading.choices import Choice

_KEPT = (torch.float32, torch.float64)
HALF = "The bound is of the network in real numbers. Leave the cast out; autocast may do it while training."


def _cast(builder: Builder, x: Ref | Choice, dtype: torch.dtype | None) -> Ref | Choice:
    """A value of another precision; a comparison as the numbers one and zero, of any type."""
    whole = isinstance(x, Choice) and all(
        isinstance(end, Tensor) and bool(((end == 0) | (end == 1)).all()) for end in (x.above, x.below)
    )
    if dtype is None or dtype in _KEPT or whole:
        return x
    name = str(dtype).removeprefix("torch.")
    if dtype.is_floating_point:
        raise builder.unsupported(f"a value rounded to {name}", HALF)
    raise builder.unsupported(f"a value as {name}", "It jumps, and has no Lipschitz constant.")


def _to(builder: Builder, x: Any, *args: Any, **kwargs: Any) -> Any:
    """x.to(dtype), x.to(device), x.to(device, dtype), or as another tensor is."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, (torch.dtype, Tensor)):
            x = _cast(builder, x, value if isinstance(value, torch.dtype) else value.dtype)
    return x


def _type(builder: Builder, x: Any, dtype: Any = None, non_blocking: bool = False) -> Any:
    if isinstance(dtype, str):
        dtype = torch.empty(0).type(dtype).dtype
    return _cast(builder, x, dtype)


def _as(dtype: torch.dtype) -> Any:
    return lambda builder, x, memory_format=None: _cast(builder, x, dtype)


KINDS: tuple[Kind, ...] = (
    Kind(_to, functions=("to", "type_as"), pending=(Choice,)),
    Kind(_type, functions=("type",), pending=(Choice,)),
    *(
        Kind(_as(dtype), functions=(name,), pending=(Choice,))
        for name, dtype in (
            ("float", torch.float32), ("double", torch.float64), ("int", torch.int32), ("long", torch.int64),
            ("bool", torch.bool),
        )
    ),
)  # fmt: skip
