"""Operations that have no row, and why."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lipguard.trusted.reading.norms import OWN_STATISTICS

_PRODUCT = (
    "It is a product of two values that depend on the input, and has no global Lipschitz constant.",
    "Use an element-wise activation.",
)
_RECURRENT = ("It is recurrent; only feed-forward networks are read.", "Unroll it with Linear layers and Tanh.")
_JUMPS = ("It jumps, and has no Lipschitz constant.", "Use a continuous activation.")
_SOFTMAX = ("A bound is one of the logits.", "Certify the network without it; the loss may apply it.")
# Why a module, or a function, that is not in the table cannot be, and what to use instead.
REFUSED: dict[Any, tuple[str, str]] = {
    **dict.fromkeys((nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, F.layer_norm, F.group_norm, F.instance_norm,
                     F.normalize), OWN_STATISTICS),
    **dict.fromkeys((nn.GLU, nn.Bilinear, nn.MultiheadAttention, nn.TransformerEncoderLayer, F.glu, torch.matmul,
                     operator.matmul, F.scaled_dot_product_attention, "matmul"), _PRODUCT),
    **dict.fromkeys((nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell), _RECURRENT),
    **dict.fromkeys((nn.Hardshrink, nn.Threshold, F.hardshrink, F.threshold, torch.sign, torch.round), _JUMPS),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d, F.softmax, F.log_softmax, torch.softmax,
                     torch.log_softmax, "softmax", "log_softmax"), _SOFTMAX),
    **dict.fromkeys((torch.exp, torch.square, torch.pow, "exp", "pow", operator.pow),
                    ("Its slope grows without bound.", "Use an activation of bounded slope.")),
}  # fmt: skip


def reason_against(operation: Any) -> str:
    """Why an operation is not in the table, in a sentence or two; nothing where it just is not."""
    classes = type(operation).__mro__ if isinstance(operation, nn.Module) else (operation,)
    known = next((REFUSED[key] for key in classes if key in REFUSED), None)
    return "" if known is None else " ".join(known) + " "
