"""Modules of version 0.1 under their former names, for scripts that were written against them.

They hold what their successors hold, and warn. Nothing in lipguard imports them; they go with version 0.3.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

# Of every former module those in which its names are found now; of a former package none.
SUCCESSORS: dict[str, tuple[str, ...]] = {
    "lipguard.certificate": (),
    "lipguard.certificate.certificate": ("lipguard.trusted.certificate.certificate",),
    "lipguard.certificate.domain": ("lipguard.trusted.regions.region", "lipguard.trusted.regions.restriction"),
    "lipguard.certificate.norms": (
        "lipguard.trusted.norms.layers", "lipguard.trusted.norms.product", "lipguard.trusted.norms.matrices",
    ),
    "lipguard.certificate.verify": ("lipguard.certifying.verify", "lipguard.trusted.certificate.verify"),
    "lipguard.certification": ("lipguard.certifying.certify",),
    "lipguard.many": ("lipguard.certifying.many",),
    "lipguard.margins": ("lipguard.certifying.margins", "lipguard.certifying.radii"),
    "lipguard.network": (),
    "lipguard.network.graph": ("lipguard.trusted.network.graph",),
    "lipguard.network.layers": ("lipguard.trusted.layers",),
    "lipguard.network.lowering": ("lipguard.trusted.reading.own",),
    "lipguard.network.trace": ("lipguard.trusted.reading.trace",),
    "lipguard.partition": (),
    "lipguard.partition.plan": ("lipguard.planning.plan", "lipguard.trusted.certificate.blocks"),
    "lipguard.penalty": ("lipguard.proposing.penalty",),
    "lipguard.plotting": ("lipguard.figures.history", "lipguard.figures.plan", "lipguard.figures.front"),
    "lipguard.report": ("lipguard.certifying.report",),
    "lipguard.robustness": ("lipguard.certifying.lower_bound",),
    "lipguard.rounding": ("lipguard.trusted.rounding",),
    "lipguard.selection": ("lipguard.choosing.selection",),
}  # fmt: skip


def _planned_block(
    start: int, stop: int, kind: str, layers: tuple[str, str], tile: tuple[int, int] | None = None, **rest: Any
) -> Any:
    """A block with what is predicted of it, from the former `Block`'s arguments."""
    from lipguard.planning.plan import PlannedBlock

    return PlannedBlock(start, stop, kind, tile, layers=layers, **rest)


# Of a former module and a name in it what takes the former arguments, where its successor takes others.
FORMER_ARGUMENTS: dict[tuple[str, str], Callable[..., Any]] = {
    ("lipguard.partition.plan", "Block"): _planned_block,
}


class _Former(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds former modules, which look their names up in their successors."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module of a former name; None for others."""
        if name not in SUCCESSORS:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=not SUCCESSORS[name])

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """A module as any other."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Give it the names of its successors, each loaded when it is asked for."""
        successors = SUCCESSORS[module.__name__]
        if successors:
            warnings.warn(
                f"{module.__name__} is now {' and '.join(successors)}; the former name goes with version 0.3.",
                DeprecationWarning, stacklevel=2,
            )  # fmt: skip

        def find(name: str) -> Any:
            if (module.__name__, name) in FORMER_ARGUMENTS:
                return FORMER_ARGUMENTS[module.__name__, name]
            for successor in successors:
                found = importlib.import_module(successor)
                if hasattr(found, name):
                    return getattr(found, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = find  # type: ignore[method-assign]


def install() -> None:
    """Let former names be imported; last of all that are asked for a module."""
    if not any(isinstance(finder, _Former) for finder in sys.meta_path):
        sys.meta_path.append(_Former())
