"""How many vectors the power iteration takes: as many as its end has rank, and some to spare."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipguard.proposing.power.iteration import Array, Iteration
from lipguard.trusted.network.cutting import pieces_of

# The vectors are enough where their shortest principal axis gets short, relative to the longest. That shows long before
# the value stands still: (relative change of the value, length of that axis). In the end it is to be short at the
# input, too, which needs the most of them: where the layers behind it are many, and need few, they outweigh it.
_FULL = ((1e-3, 0.2), (1e-2, 0.3))
_FULL_INPUT = (3e-5, 0.2)
_SPARE = 0.02


def is_full(iteration: Iteration, change: float) -> bool:
    """Whether the vectors are too few, by what is seen when the value changes by `change`.

    A point that stands still and does not need all of its rank is an optimum for any (Burer and Monteiro, 2005).
    """
    longest = next((limit for size, limit in _FULL if change <= size), math.inf)
    if 2 * len(iteration.x) > iteration.options.most_vectors or longest == math.inf:
        return False
    grams = _grams(iteration)
    # Of a cut network more vectors were measured to leave multipliers that are harder to mend, and no other value.
    whole = len(pieces_of(iteration.parts[0].network)) == 1
    if whole and change <= _FULL_INPUT[0] and float(_spread(grams[0])) > _FULL_INPUT[1]:
        return True
    return float(_spread(grams.sum(0))) > longest


def fewest(iteration: Iteration) -> dict[str, Array]:
    """The end, to go on from: as few vectors as it takes, by the names of `Iteration.vectors`."""
    arrays = iteration.vectors()
    few, k = iteration.options.vectors, len(iteration.x)
    if k > few:
        kept = k
        squares, axes = torch.linalg.eigh(_grams(iteration).sum(0))
        while kept > few and float(squares[-(kept // 2) - 1]) < _SPARE**2 * float(squares[-1]):
            kept //= 2
        turn = axes[:, -kept:].T.to(iteration.x)
        arrays = {name: (turn @ v.reshape(k, -1)).reshape(-1, *v.shape[1:]) for name, v in arrays.items()}
    return {name: tensor.float().cpu().numpy() for name, tensor in arrays.items()}


def _grams(iteration: Iteration) -> Tensor:
    """Of the vectors on the input and on every activation, of trace one: shape (blocks, k, k).

    Every layer counts alike: entries grow from layer to layer, and the last layers need the least rank.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        iteration.forward(iteration.x, kept)
    k = len(iteration.x)
    blocks = [iteration.x, *(answer for _, answer in kept)]
    kept.clear()
    flat = [v.reshape(k, -1) for v in blocks]
    grams = torch.stack([(v @ v.T).cpu().double() for v in flat])
    sizes = grams.diagonal(dim1=1, dim2=2).sum(1)
    known = sizes.isfinite() & (sizes > 0)
    if not bool(known.any()):  # as if one vector were enough
        return (torch.arange(k) == k - 1).double().diag()[None]
    return grams[known] / sizes[known, None, None]


def _spread(gram: Tensor) -> Tensor:
    """The shortest principal axis over the longest."""
    squares = torch.linalg.eigvalsh(gram).clamp_min(0)
    spread: Tensor = (squares[..., 0] / squares[..., -1]).sqrt()
    return spread
