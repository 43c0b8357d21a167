"""Choices between affine maps that differ by a multiple of what is compared, as in a Householder layer.

f(x) is p(x) where s(x) > 0, and q(x) elsewhere. Where p - q = k s, entry by entry, it is q + k relu(s), without a jump.
Factors such as cos(t) and sin(t / 2) are rounded, so that p - q is k s but for that: the function that is meant is the
one without the jumps that rounding leaves, and the report says so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lipguard.trusted import layers
from lipguard.trusted.reading.builder import Builder, Ref
from lipguard.trusted.reading.lines import rectified

# Of the factor: the relative error that samples would not show, and as many roundings count for it.
_SAMPLED, _ULPS = 2.0**-40, 2**14
_PROBES = 8
_WITHOUT_JUMPS = (
    "a choice between maps that agree where it changes, without the jumps that rounding of their weights leaves"
)


def reflected(builder: Builder, value: Ref, limit: float, above: Ref, below: Ref) -> Ref | None:
    """`above` where a value is above a limit, and `below` elsewhere; None where they do not differ by its multiples."""
    if not value.shape == above.shape == below.shape:
        return None
    s, p, q = _probed(builder, (value, above, below))
    d = p - q
    s[0] -= limit
    best = 1 + s[1:].abs().argmax(0, keepdim=True)  # the first one holds the shifts, which would hide what varies
    factor = d.gather(0, best) / s.gather(0, best)
    lost = _SAMPLED * torch.stack([d[0].abs(), *(d[1:].abs().amax(0) for _ in range(_PROBES))])
    if not bool(factor.isfinite().all()) or not bool(((d - factor * s).abs() <= lost).all()):
        return None
    builder.note = f"{builder.note}; {_WITHOUT_JUMPS}" if builder.note else _WITHOUT_JUMPS
    bent = builder.emit(layers.Scale(factor[0], weight_ulps=_ULPS), rectified(builder, value, limit))
    return builder.emit(layers.Add(), below, bent)


def _probed(builder: Builder, wanted: tuple[Ref, ...]) -> list[Tensor]:
    """Of some affine maps of activations, or of the input, the shifts, and the linear parts of normal values."""
    generator = torch.Generator().manual_seed(0)
    known: dict[int, Tensor] = {}
    waiting = [ref.index for ref in wanted]
    while waiting:
        i = waiting[-1]
        node = builder.nodes[i]
        affine = node.inputs and not isinstance(node.layer, layers.Activation)
        missing = [j for j in node.inputs if j not in known] if affine else []
        if missing:
            waiting += missing
            continue
        waiting.pop()
        if i in known:
            continue
        if affine:
            read = [known[j] for j in node.inputs]
            shift, linear = node.layer.forward(*(v[:1] for v in read)), node.layer.linear(*(v[1:] for v in read))
            known[i] = torch.cat([shift, linear])
        else:
            known[i] = torch.randn(1 + _PROBES, *node.shape, generator=generator, dtype=torch.float64)
            known[i][0] = 0
    return [known[ref.index] for ref in wanted]
