"""The table of supported operations: the union of the families' rows, and what users have registered beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from lipguard.trusted.reading import (
    arithmetic,
    casting,
    choices,
    contractions,
    convolutions,
    curves,
    functions,
    interpolation,
    joining,
    matrices,
    maxima,
    moving,
    normalising,
    norms,
    pooling,
    products,
    sorting,
)
from lipguard.trusted.reading.builder import Kind

FAMILIES = (
    convolutions, pooling, norms, normalising, moving, joining, arithmetic, products, contractions, matrices, functions,
    curves, maxima, choices, sorting, casting, interpolation,
)  # fmt: skip  # each with its KINDS


class Table:
    """Rows, found by the module class, the function or the name of the method that they read.

    Args:
        kinds: the rows.

    Attributes:
        modules: the row of every class; they stay as they are.
        functions: the row of every function, and of every method by its name.
        own: rows of classes that users have registered.

    Raises:
        ValueError: a class, function or method has two rows.
    """

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self.modules: dict[type[nn.Module], Kind] = {}
        self.functions: dict[Callable[..., Any] | str, Kind] = {}
        self.own: dict[type[nn.Module], Kind] = {}
        for kind in kinds:
            if kind.module is not None:
                _enter(self.modules, kind.module, kind)
            for function in kind.functions:
                _enter(self.functions, function, kind)

    def module_kind(self, module: nn.Module) -> Kind | None:
        """The row of a module: of its class, or of the base class whose `forward` it inherits unchanged."""
        for cls in type(module).__mro__:
            rows = self.own if cls in self.own else self.modules
            if cls in rows:
                kept = type(module).forward is cls.forward
                if issubclass(cls, nn.Conv2d):
                    kept = kept and type(module)._conv_forward is cls._conv_forward  # type: ignore[attr-defined]
                return rows[cls] if kept else None
        return None

    def function_kind(self, target: Callable[..., Any] | str) -> Kind | None:
        """The row of a function, or of a tensor method by its name."""
        return self.functions.get(target)


def _enter(rows: dict[Any, Kind], operation: Any, kind: Kind) -> None:
    if operation in rows:
        name = getattr(operation, "__name__", operation)
        raise ValueError(f"{name} has two rows in the table of supported operations. Remove one of them.")
    rows[operation] = kind


TABLE = Table(kind for family in FAMILIES for kind in family.KINDS)
