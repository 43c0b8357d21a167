"""Proving the bound of one block from proposed multipliers.

The multipliers only choose which sensitivity form is tried. The form itself is computed here, widened a little (the
`slack`), and proved: with `S` at the input in place of `rho I`, LipSDP's matrix must be positive semidefinite, for the
exact weights, by shifted Cholesky. Then `|f(u) - f(v)|^2 <= (u - v)' S (u - v)` for all u, v.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from lipguard.certificate.cholesky import is_positive_semidefinite, largest_eigenvalue_bound, last_eigenvalue
from lipguard.certificate.hints import Hints
from lipguard.certificate.randomised import is_positive_semidefinite_randomly
from lipguard.certificate.sparse import is_form_positive_semidefinite
from lipguard.network.form import ScaledForm
from lipguard.network.graph import Network
from lipguard.network.linearised import FreedNetwork, are_tied, slope_ranges
from lipguard.network.underflow import is_in_range
from lipguard.partition.plan import Block
from lipguard.partition.tiling import Tiling
from lipguard.rounding import (
    SMALLEST_NORMAL,
    add_up,
    div_up,
    gamma_up,
    mul_up,
    rounds_as_ieee,
    sqrt_up,
)

Array = NDArray[np.float64]
MERGES = ("form", "coverage", "sum")
# Rows of the largest dense matrix that a proof factors: 300 MB, and a few seconds on two cores.
LARGEST_MATRIX = 6144
SMALLEST_FORM = 2.0**-790  # keeps the form of a part that is constant positive definite


@dataclass(frozen=True)
class WholeClaim:
    """That a block, as one LMI, has the Lipschitz constant sqrt(rho).

    Attributes:
        t: multipliers, one per neuron.
        rho: the square of the claimed bound.
        proof: "dense", "sparse" or "randomised".
        margin: for a randomised proof, the relative distance of the matrix from a singular one that it counts on.
        failure_probability: of a randomised proof.
    """

    t: Array
    rho: float
    proof: str
    margin: float = 0.0
    failure_probability: float = 0.0


@np.errstate(over="ignore", invalid="ignore")  # infinite and undefined results are refused, not warned of
def proves(
    claim: WholeClaim, network: Network, hints: Hints, freed: FreedNetwork | None = None, deadline: float = math.inf,
    device: torch.device | str = "cpu", entropy: bytes = b"",
) -> bool:  # fmt: skip
    """Whether the claim about `network` can be proved; False says nothing.

    Args:
        claim: of the whole of `network`.
        network: a block of its own.
        hints: who knows orders of elimination and estimates.
        freed: its matrices, if they are at hand and the proof is dense.
        deadline: of `time.monotonic()`, at which a proof that can be stopped gives up.
        device: where a sparse or randomised proof runs, if it rounds as IEEE 754 asks; else on the CPU.
        entropy: what a randomised proof draws from, beside the claim itself.
    """
    if not (is_in_range(claim.t, claim.rho, *slope_ranges(network)) and are_tied(network, claim.t)):
        return False
    if claim.proof == "dense":
        freed = freed or FreedNetwork.assemble(network)
        if freed.input_is_apart:
            return _is_scalar_form(freed, claim.t, claim.rho)
        return _is_form(freed, claim.t, freed.quadratic(claim.t), claim.rho * np.eye(freed.n_x))
    form = ScaledForm(network, claim.t, claim.rho, device if rounds_as_ieee(device) else "cpu")
    if claim.proof == "sparse":
        return is_form_positive_semidefinite(form, hints, deadline)
    text = f"{network.digest} {claim.rho.hex()} {claim.margin.hex()} {claim.failure_probability.hex()}"
    seed = text.encode() + claim.t.tobytes() + entropy
    return is_positive_semidefinite_randomly(form, hints, claim.margin, claim.failure_probability, seed, deadline)


@dataclass(frozen=True)
class BlockBound:
    """A proved Lipschitz bound of a block, and what each merge of the same tiles would give (looser ones included)."""

    bound: float
    merges: dict[str, float]


@np.errstate(over="ignore", invalid="ignore")  # infinite and undefined results are refused, not warned of
def prove_tiles(
    network: Network,
    block: Block,
    freed: Sequence[FreedNetwork],
    multipliers: Sequence[Array],
    slack: float,
    merge: str,
) -> BlockBound | None:
    """The bound that these multipliers prove for a tiled block, or None where the proof fails.

    Args:
        network: the whole network.
        block: of kind "tiles".
        freed: the freed networks of `block.parts(network)`.
        multipliers: non-negative, one array per part.
        slack: relative widening of the forms.
        merge: "form", "coverage" or "sum".
    """
    forms = [proved_form(part, t, slack) for part, t in zip(freed, multipliers, strict=True)]
    proved = [form for form in forms if form is not None]
    if len(proved) < len(forms):
        return None
    merges = _merged(block.tiling(block.network(network)), proved, merge)
    return BlockBound(min(merges.values()), merges)


def _schur_factor(Q: Array, R: Array) -> Array | None:
    """H with H'H = Q' R^-1 Q, numerically, in the shape of Q, (neurons, n_x); None where R is not positive definite."""
    if not (np.isfinite(Q).all() and np.isfinite(R).all()):
        return None
    try:
        factor = scipy.linalg.cholesky(R, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return None
    H = scipy.linalg.solve_triangular(factor, Q, lower=True, check_finite=False)
    return H if np.isfinite(H).all() else None


def _form(freed: FreedNetwork, A: Array) -> Array | None:
    """The smallest form S at the input, numerically: the Schur complement in A(0, t), shape (n_x, n_x)."""
    n = freed.n_x
    H = _schur_factor(A[n:, :n], A[n:, n:])
    if H is None:
        return None
    S = H.T @ H - A[:n, :n]
    return (S + S.T) / 2


@np.errstate(over="ignore", invalid="ignore")
def form_norm(freed: FreedNetwork, t: Array) -> float:
    """The largest eigenvalue of the form that the multipliers give, numerically; infinite where there is none."""
    if freed.input_is_apart:
        H = _schur_factor(*freed.hidden(t))
        S = None if H is None else H @ H.T if len(H) < freed.n_x else H.T @ H
    else:
        S = _form(freed, freed.quadratic(t))
    if S is None or not np.isfinite(S).all():
        return np.inf
    return max(0.0, last_eigenvalue(S)) if len(S) else 0.0


def proved_form(freed: FreedNetwork, t: Array, slack: float) -> Array | None:
    """A proved sensitivity form at the input of a part, shape (n_x, n_x): the numerical one plus slack |S| I."""
    A = freed.quadratic(t)
    S = _form(freed, A)
    if S is None:
        return None
    S[np.diag_indices(freed.n_x)] += slack * float(np.abs(S).sum(axis=1).max(initial=0.0)) + SMALLEST_FORM
    return S if _is_form(freed, t, A, S) else None


def _is_scalar_form(freed: FreedNetwork, t: Array, rho: float) -> bool:
    """Prove [[rho I, Q'], [Q, R]] positive semidefinite by its Schur complement R - Q Q' / rho."""
    (Q, R), (Q_abs, R_abs) = freed.hidden(t), freed.hidden_abs(t)
    M = R - (Q @ Q.T) / rho
    magnitude = R_abs + (Q_abs @ Q_abs.T) / rho
    # Twice the roundings of an entry of Q, an inner product over the input, the quotient and the difference.
    roundings = 2 * freed.form_roundings + freed.n_x + 4
    # Underflow in an entry of Q, times a row of Q, and in every product of two of them.
    rows = 1.001 * float(Q_abs.sum(axis=1).max(initial=0.0))
    lost = mul_up(4.0, SMALLEST_NORMAL, div_up(add_up(freed.n_x + 4.0, rows), rho))
    return is_positive_semidefinite(
        (M + M.T) / 2, gamma_up(roundings) * 1.001 * magnitude + add_up(lost, freed.form_underflow())
    )


def _is_form(freed: FreedNetwork, t: Array, A: Array, S: Array) -> bool:
    """Prove that A(0, t) with S added to its input block is positive semidefinite; `A` is overwritten."""
    n = freed.n_x
    magnitude = freed.quadratic_abs(t)
    A[:n, :n] += S
    magnitude[:n, :n] += np.abs(S)
    error = gamma_up(freed.form_roundings + 2) * 1.001 * magnitude + freed.form_underflow()
    return is_positive_semidefinite(A, error)


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
