"""Tiles: a proved form at the input of each, and what all of them say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.network.tiling import Tiling
from lipguard.trusted.proofs.cholesky import largest_eigenvalue_bound
from lipguard.trusted.proofs.dense import Array, is_form, numerical_form
from lipguard.trusted.rounding import add_up, gamma_up, mul_up, sqrt_up

MERGES = ("form", "coverage", "sum")
# Rows of the largest dense matrix that a proof factors: 300 MB, and a few seconds on two cores.
LARGEST_MATRIX = 6144
SMALLEST_FORM = 2.0**-790  # keeps the form of a part that is constant positive definite


@dataclass(frozen=True)
class BlockBound:
    """A proved Lipschitz bound of a block, and what each merge of the same tiles would give (looser ones included)."""

    bound: float
    merges: dict[str, float]


@np.errstate(over="ignore", invalid="ignore")  # infinite and undefined results are refused, not warned of
def prove_tiles(
    tiling: Tiling, freed: Sequence[FreedNetwork], multipliers: Sequence[Array], slack: float, merge: str
) -> BlockBound | None:
    """The bound that these multipliers prove for a tiled block, or None where the proof fails.

    Args:
        tiling: of the block's network.
        freed: the freed networks of its tile shapes.
        multipliers: non-negative, one array per shape.
        slack: relative widening of the forms.
        merge: "form", "coverage" or "sum".
    """
    forms = [proved_form(part, t, slack) for part, t in zip(freed, multipliers, strict=True)]
    proved = [form for form in forms if form is not None]
    if len(proved) < len(forms):
        return None
    merges = _merged(tiling, proved, merge)
    return BlockBound(min(merges.values()), merges)


def proved_form(freed: FreedNetwork, t: Array, slack: float) -> Array | None:
    """A proved sensitivity form at the input of a part, shape (n_x, n_x): the numerical one plus slack |S| I."""
    A = freed.quadratic(t)
    S = numerical_form(freed, A)
    if S is None:
        return None
    S[np.diag_indices(freed.n_x)] += slack * float(np.abs(S).sum(axis=1).max(initial=0.0)) + SMALLEST_FORM
    return S if is_form(freed, t, A, S) else None


def _proved_norm(S: Array) -> float:
    """Upper bound of the largest eigenvalue of a form given as the floats that it consists of."""
    return max(0.0, largest_eigenvalue_bound(S, np.zeros_like(S)))


def _merged(tiling: Tiling, forms: Sequence[Array], merge: str) -> dict[str, float]:
    """Bounds of the block from the proved forms of its tile shapes, by every merge up to the one asked for.

    The merged form is a dense matrix of the block's input; where that is too large, coverage stands in.

    Outputs of different tiles are different entries of the block's output, so |f(u) - f(v)|^2 is the sum over tiles.
    """
    squares = [_proved_norm(S) for S in forms]
    counts = [len(shape.origins) for shape in tiling.shapes]
    merges = {
        "sum": sqrt_up(add_up(*(mul_up(float(count), square) for count, square in zip(counts, squares, strict=True))))
    }
    if merge == "sum":
        return merges
    entries = tiling.network.nodes[0].size
    cover = np.zeros((len(forms), entries))
    joint = np.zeros((entries, entries)) if merge == "form" and entries <= LARGEST_MATRIX else None
    magnitude = None if joint is None else np.zeros_like(joint)
    for j, (shape, S) in enumerate(zip(tiling.shapes, forms, strict=True)):
        for origin in shape.origins:
            local, absolute = tiling.input_entries(shape, origin)
            cover[j, absolute] += 1
            if joint is not None and magnitude is not None:
                member = S[np.ix_(local, local)]
                joint[np.ix_(absolute, absolute)] += member
                magnitude[np.ix_(absolute, absolute)] += np.abs(member)
    distinct = np.unique(cover, axis=1)
    merges["coverage"] = sqrt_up(
        max(
            add_up(*(mul_up(float(c), square) for c, square in zip(column, squares, strict=True)))
            for column in distinct.T
        )
    )
    if joint is not None and magnitude is not None:
        error = gamma_up(int(cover.sum(axis=0).max()) + 4) * 1.001 * magnitude
        merges["form"] = sqrt_up(max(0.0, largest_eigenvalue_bound(joint, error)))
    return merges
