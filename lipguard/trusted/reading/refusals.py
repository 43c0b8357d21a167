"""Operations that have no row: why, where that is known, and what to do instead."""

from __future__ import annotations

import difflib
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lipguard.errors import UnsupportedLayerError
from lipguard.trusted.reading.casting import HALF
from lipguard.trusted.reading.table import TABLE

_PRODUCT = (
    "It is a product of two values that depend on the input, and has no global Lipschitz constant.",
    "Use an element-wise activation.",
)
_NEIGHBOURS = (
    "It divides by a power of what neighbouring channels hold, for which there is no rule.",
    "Use BatchNorm in eval mode, or LayerNorm.",
)
_RECURRENT = ("It is recurrent; only feed-forward networks are read.", "Unroll it with Linear layers and Tanh.")
_JUMPS = ("It jumps, and has no Lipschitz constant.", "Use a continuous activation.")
# Why a module, a function, or a method by its name, is not in the table, and what to use instead.
REFUSED: dict[Any, tuple[str, str]] = {
    nn.LocalResponseNorm: _NEIGHBOURS,
    **dict.fromkeys((nn.Bilinear,), _PRODUCT),
    **dict.fromkeys((nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell), _RECURRENT),
    **dict.fromkeys(("half", "bfloat16"), ("It rounds to three digits or less.", HALF)),
    **dict.fromkeys((nn.Hardshrink, F.hardshrink, torch.sign, torch.round, "sign", "round"), _JUMPS),
}  # fmt: skip
_ALIKE = {"module": 0.6, "function": 0.7}  # the least likeness of names that are proposed; short ones agree by chance
_MOST = 3  # of them
_PAGE = "the page Layers of the documentation (docs/layers.md) lists all that is supported"


def refusal(path: str, name: str, operation: Any) -> UnsupportedLayerError:
    """The error to raise for an operation that has no row, in one line.

    Args:
        path: where it is.
        name: what it is, in words that a user can find in their code.
        operation: the module, the function, or the name of the method.
    """
    classes = type(operation).__mro__ if isinstance(operation, nn.Module) else (operation,)
    known = next((REFUSED[key] for key in classes if key in REFUSED), None)
    if known is not None:
        return UnsupportedLayerError(path, name, " ".join(known))
    near = nearest(operation)
    proposed = f" The nearest by name: {', '.join(near)}." if near else ""
    return UnsupportedLayerError(
        path,
        name,
        f"There is no rule for it.{proposed} Use what is supported, or tell what is known of a module of your own "
        f"(lipguard.register); {_PAGE}.",
    )


def nearest(operation: Any) -> list[str]:
    """Names of at most three supported operations that are most like that of another one; the most alike first."""
    if isinstance(operation, nn.Module):
        kind, name, known = "module", type(operation).__name__, {cls.__name__ for cls in (*TABLE.modules, *TABLE.own)}
    else:
        kind, name, known = "function", name_of(operation), {name_of(function) for function in TABLE.functions}
    plain = sorted(word for word in known if not word.endswith("_"))  # those in place do the same
    return difflib.get_close_matches(name, plain, _MOST, _ALIKE[kind])


def name_of(function: Any) -> str:
    """The name of a function, or of a method, which is its name."""
    return str(getattr(function, "__name__", function))
