"""Products of matrices that both depend on the input, and attention, which is made of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.reading.arithmetic import along
from lipguard.trusted.reading.builder import Builder, Kind, Ref
from lipguard.trusted.reading.constants import expanded, shifted
from lipguard.trusted.reading.moving import moved, reshaped
from lipguard.trusted.reading.normalising import softmax


def of_two(builder: Builder, x: Ref, y: Ref) -> Ref:
    """A product of two stacks of matrices, each of one sample."""
    if len(x.shape) != len(y.shape) or len(x.shape) < 2:
        raise builder.unsupported(
            f"the product of matrices of shapes {x.shape} and {y.shape}", "Give both as many axes, two or more."
        )
    stack = tuple(np.broadcast_shapes(x.shape[:-2], y.shape[:-2]))
    one, other = expanded(builder, x, (*stack, *x.shape[-2:])), expanded(builder, y, (*stack, *y.shape[-2:]))
    return builder.emit(layers.MatrixProduct(), one, other)


def attention(
    builder: Builder, query: Ref, key: Ref, value: Ref, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Ref:  # fmt: skip
    """softmax(Q K' / sqrt(d)) V."""
    if not isinstance(value, Ref) or enable_gqa:
        raise builder.unsupported("attention to constants, or of several groups", "Write it out.")
    if dropout_p:
        raise InvalidNetworkError(f"{builder.path}: dropout in training mode is random. Call model.eval().")
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    return of_two(builder, _weights(builder, query, key, scale, attn_mask), value)


def _weights(builder: Builder, query: Ref, key: Ref, scale: float | None, seen: Any) -> Ref:
    """softmax(Q K' / sqrt(d)): how much every query takes of every value that it sees.

    Args:
        builder, query, key: as for `attention`.
        scale: in place of 1 / sqrt(d).
        seen: what is, as booleans, or a summand of the scores; None for all.
    """
    if not (isinstance(query, Ref) and isinstance(key, Ref)):
        raise builder.unsupported("attention to constants", "Write it out.")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    turned = moved(builder, key, lambda v: v.transpose(-1, -2))
    small = builder.emit(layers.Scale(torch.full((1,), factor, dtype=torch.float64), weight_ulps=2), query)
    scores = of_two(builder, small, turned)
    if isinstance(seen, Ref):
        raise builder.unsupported("attention with a mask that depends on the input", "Use a constant one.")
    if seen is not None:
        hidden = torch.where(seen, 0.0, -torch.inf) if seen.dtype == torch.bool else seen
        scores = shifted(builder, scores, hidden)
    return softmax(builder, scores, -1)


def _multihead(
    builder: Builder, query: Ref, key: Ref, value: Ref, key_padding_mask: Any = None, need_weights: bool = True,
    attn_mask: Any = None, average_attn_weights: bool = True, is_causal: bool = False, *, module: nn.MultiheadAttention,
) -> list[Ref]:  # fmt: skip
    """(attention of several heads, its weights if they are asked for)."""
    joint, apart = module.in_proj_weight, module.bias_k is not None or module.add_zero_attn
    if not module.batch_first or joint is None or apart or not isinstance(key, Ref) or not isinstance(value, Ref):
        raise builder.unsupported("this MultiheadAttention", "Set batch_first=True, and give it what it reads.")
    if key_padding_mask is not None or (isinstance(attn_mask, Tensor) and attn_mask.dim() > 2):
        raise builder.unsupported("attention with a mask per sample or head", "Leave out what it hides.")
    seen = ~attn_mask if isinstance(attn_mask, Tensor) and attn_mask.dtype == torch.bool else attn_mask
    biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    q, k, v = (
        _heads(builder, _projected(builder, x, w, b), module.num_heads)
        for x, w, b in zip((query, key, value), joint.chunk(3), biases, strict=True)
    )
    weights = _weights(builder, q, k, None, seen)
    y = moved(builder, of_two(builder, weights, v), lambda u: u.transpose(1, 2))
    y = reshaped(builder, y, lambda u: u.flatten(-2))
    found = _projected(builder, y, module.out_proj.weight, module.out_proj.bias)
    if not need_weights:
        return [found]
    if not average_attn_weights:
        return [found, weights]
    heads = module.num_heads
    averaged = along(builder, weights, 0, torch.full((1, heads), 1 / heads, dtype=torch.float64))
    return [found, reshaped(builder, averaged, lambda u: u.flatten(1, 2))]


def _projected(builder: Builder, x: Ref, weight: Tensor, bias: Tensor | None) -> Ref:
    matrix = builder.constant(weight, "weight")
    assert matrix is not None
    return builder.emit(layers.Linear(matrix, builder.constant(bias, "bias")), x)


def _heads(builder: Builder, x: Ref, heads: int) -> Ref:
    """(tokens, entries) as (heads, tokens, entries of a head)."""
    apart = reshaped(builder, x, lambda u: u.reshape(*u.shape[:-1], heads, -1))
    return moved(builder, apart, lambda u: u.transpose(1, 2))


KINDS: tuple[Kind, ...] = (
    Kind(attention, functions=(F.scaled_dot_product_attention,)),
    Kind(_multihead, nn.MultiheadAttention, lambda m: {"module": m}),
)
