"""Networks of one supported operation each."""

from __future__ import annotations

import builtins
import operator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from helpers.function_examples import FUNCTIONS, functional
from helpers.module_examples import MODULES
from helpers.networks import Sample, with_weights
from lipguard.trusted.reading.builder import Kind


def spelled(operation: Any) -> str:
    """As the page of layers writes it: a class of torch.nn, a function with its module, a method behind a dot."""
    if isinstance(operation, str):
        return f".{operation}"
    if isinstance(operation, type):
        return operation.__name__
    names = [name for name in (operation.__name__, *vars(F)) if not name.startswith("_")]
    names = [n for n in names if n != "linalg_norm"] + ["norm", "vector_norm"]
    homes = {"operator": operator, "F": F, "torch": torch, "torch.linalg": torch.linalg, "builtins": builtins}
    return next(f"{h}.{n}" for n in names for h, home in homes.items() if getattr(home, n, None) is operation)


def of_row(kind: Kind) -> list[Any]:
    """All operations that a row reads."""
    return [*([] if kind.module is None else [kind.module]), *kind.functions]


@cache
def examples() -> dict[Any, list[Sample]]:
    """By operation, a class, a function or the name of a method: networks that hold it, of weights of their own."""
    models: list[tuple[Any, tuple[int, ...], nn.Module]] = [
        *((cls, shape, module) for cls, rows in MODULES.items() for shape, module in rows),
        *((function, shape, functional(call)) for function, rows in FUNCTIONS.items() for shape, call in rows),
    ]
    found: dict[Any, list[Sample]] = {}
    for seed, (operation, shape, model) in enumerate(models):
        found.setdefault(operation, []).append(Sample(with_weights(model, seed), shape))
    return found
