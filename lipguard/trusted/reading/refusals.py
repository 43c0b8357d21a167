"""Operations that have no row: why, where that is known, and what to do instead."""

from __future__ import annotations

import difflib
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lipguard.errors import UnsupportedLayerError
from lipguard.trusted.reading.casting import HALF
from lipguard.trusted.reading.norms import OWN_STATISTICS
from lipguard.trusted.reading.table import TABLE

_PRODUCT = (
    "It is a product of two values that depend on the input, and has no global Lipschitz constant.",
    "Use an element-wise activation.",
)
_RECURRENT = ("It is recurrent; only feed-forward networks are read.", "Unroll it with Linear layers and Tanh.")
_JUMPS = ("It jumps, and has no Lipschitz constant.", "Use a continuous activation.")
_SOFTMAX = ("A bound is one of the logits.", "Certify the network without it; the loss may apply it.")
_STEEP = ("Its slope grows without bound.", "Use an activation of bounded slope.")
# Why a module, a function, or a method by its name, is not in the table, and what to use instead.
REFUSED: dict[Any, tuple[str, str]] = {
    **dict.fromkeys((nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, F.layer_norm, F.group_norm, F.instance_norm,
                     F.normalize), OWN_STATISTICS),
    **dict.fromkeys((nn.GLU, nn.Bilinear, nn.MultiheadAttention, nn.TransformerEncoderLayer, F.glu,
                     F.scaled_dot_product_attention), _PRODUCT),
    **dict.fromkeys((nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell), _RECURRENT),
    **dict.fromkeys(("half", "bfloat16"), ("It rounds to three digits or less.", HALF)),
    **dict.fromkeys((nn.Hardshrink, F.hardshrink, torch.sign, torch.round, "sign", "round"), _JUMPS),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d, F.softmax, F.log_softmax, torch.softmax,
                     torch.log_softmax, "softmax", "log_softmax"), _SOFTMAX),
    **dict.fromkeys((torch.exp, torch.square, torch.pow, "exp", "square", "pow", operator.pow), _STEEP),
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
