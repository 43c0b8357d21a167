"""The table of supported operations: the union of the families' rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from lipguard.trusted.reading import arithmetic, convolutions, functions, interpolation, moving, norms, pooling
from lipguard.trusted.reading.builder import Kind

KINDS: tuple[Kind, ...] = (
    *convolutions.KINDS, *norms.KINDS, *pooling.KINDS, *moving.KINDS, *interpolation.KINDS, *arithmetic.KINDS,
    *functions.KINDS,
)  # fmt: skip

_REGISTERED: set[type[nn.Module]] = set()  # by users
_MODULES = {kind.module: kind for kind in KINDS if kind.module is not None}
_FUNCTIONS = {function: kind for kind in KINDS for function in kind.functions}


def module_kind(module: nn.Module) -> Kind | None:
    """The row of a module: its class, or the base class whose `forward` it inherits unchanged."""
    for cls in type(module).__mro__:
        if cls in _MODULES:
            kept = type(module).forward is cls.forward
            if issubclass(cls, nn.Conv2d):
                kept = kept and type(module)._conv_forward is cls._conv_forward  # type: ignore[attr-defined]
            return _MODULES[cls] if kept else None
    return None


def function_kind(target: Callable[..., Any] | str) -> Kind | None:
    """The row of a function, or of a tensor method by its name."""
    return _FUNCTIONS.get(target)


def supported() -> str:
    """The supported modules, for error messages."""
    return ", ".join(sorted({cls.__name__ for cls in _MODULES}))
