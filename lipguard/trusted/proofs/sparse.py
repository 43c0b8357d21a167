"""Rigorous proofs of large LMIs by sparse Cholesky factorisation.

The same theorem as for dense matrices (`lipguard.trusted.proofs.cholesky`), which allows any order of elimination and
of summation.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from lipguard.trusted.layers import Matrix
from lipguard.trusted.lmi.freed import pre_activations, roundings, slope_ranges
from lipguard.trusted.lmi.matrices import freed_matrices
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.lmi.underflow import row_losses
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs.cholesky import factorisation_error
from lipguard.trusted.proofs.claim import Claim, Means
from lipguard.trusted.proofs.hints import Hints
from lipguard.trusted.proofs.multifrontal import factors
from lipguard.trusted.proofs.order import Elimination, NoOrderError
from lipguard.trusted.rounding import SMALLEST_NORMAL, UNIT_ROUNDOFF, add_up, gamma_up, mul_up, rounds_as_ieee, sqrt_up

Array = NDArray[np.float64]
_ROWS = 4096  # that are scaled at a time
_MOST_PRODUCTS = 3e8  # that slopes which do not reach zero may ask for, entry by entry
_MOST_COLUMNS = 4096  # of a matrix that is written out where there are more


def check(claim: Claim, network: Network, means: Means) -> bool:
    """Whether the claim can be proved by sparse factorisations, on an accelerator where there is one."""
    device = means.device if rounds_as_ieee(means.device) else "cpu"
    form = ScaledForm(network, claim.t, claim.diagonal, device)
    return is_form_positive_semidefinite(form, means.hints, means.deadline)


def is_form_positive_semidefinite(form: ScaledForm, hints: Hints, deadline: float = math.inf) -> bool:
    """Prove A(rho, t) >= 0, for the exact weights, piece by piece.

    The output, and slopes of both signs, enter the matrix as squares with a minus sign, -|Y z|^2, which would couple
    all that the output reads. With the output as a variable of its own, [[A, Y'], [Y, I]], the matrix stays sparse;
    eliminating it gives the original back.

    Args:
        form: of the network, its multipliers and rho; on an accelerator, it is where the fronts are factored.
        hints: who knows an order of elimination.
        deadline: of `time.monotonic()`, at which it gives up.

    Returns:
        True only if it is proved; False says nothing.
    """
    return form.dtype == torch.float64 and all(
        _is_piece_positive_semidefinite(piece, hints, deadline) for piece in form.pieces()
    )


def _is_piece_positive_semidefinite(form: ScaledForm, hints: Hints, deadline: float) -> bool:
    if len(form.network.nodes) == 1:  # an input of which copies are made: two diagonal forms, as they are
        return bool((form.rho >= form.outward).all())
    if not (np.isfinite(form.diagonal).all() and (form.diagonal > 0).all()):
        return False
    try:
        elimination = hints.order(form.network, deadline)
    except NoOrderError:
        return False
    assembled = _assembled(form)
    if assembled is None or not (np.isfinite(assembled[0].data).all() and np.isfinite(assembled[1]).all()):
        return False
    lower, diagonal, collected = assembled
    # M bounds the rows of |A|, and of |Y|'|Y| in it; for symmetric E, |E|_2 <= |E|_inf, and |Y|_2 <= sqrt(M).
    ones = torch.ones(1, form.n, dtype=torch.float64, device=form.device)
    rows = float(form.magnitude(ones).max()) * (1 + 2 * gamma_up(form.roundings))
    underflow = _underflow(form, len(diagonal))
    rows = add_up(rows, underflow)
    lost = add_up(mul_up(1.001 * gamma_up(collected), add_up(rows, sqrt_up(rows), 1.0)), underflow)
    shift = add_up(lost, factorisation_error(len(diagonal), float(diagonal.sum())))
    diagonal = np.nextafter(diagonal - shift, -np.inf)
    return bool((diagonal > 0).all()) and factors(lower, diagonal, elimination, deadline, form.device)


def _underflow(form: ScaledForm, n: int) -> float:
    """What products below the normal numbers take from the assembled matrix, of order n, in the infinity norm."""
    network, t = form.network.to(torch.float64, "cpu"), form.t
    alpha, beta = slope_ranges(network)
    of_rows, of_output = row_losses(network)
    n_x, largest = network.nodes[0].size, float(form.scale.max())
    factors = np.maximum(np.abs(alpha + beta) * t * form.scale[n_x:], np.sqrt(2 * t * np.abs(alpha * beta)))
    row = add_up(float((of_rows * factors).max(initial=0.0)), mul_up(of_output, sqrt_up(float(form.outward.max()))))
    entry = add_up(mul_up(1.001 * row + 4 * SMALLEST_NORMAL, largest), 2 * SMALLEST_NORMAL)
    product = 2 * t * np.maximum(alpha * beta, 0.0)
    if product.any():  # of slopes that stay away from zero: p (k + e)(k' + e') - p k k', by sums of rows of |K|
        rows = pre_activations(network.absolute(), torch.from_numpy(form.scale)[None])[0].numpy()
        off = of_rows * largest + 2 * SMALLEST_NORMAL
        joint = 1.01 * float((product * off * (rows + off)).sum())
        entry = add_up(entry, joint, SMALLEST_NORMAL * (1.01 * float(rows.sum()) + len(rows) + 1))
    return mul_up(2.0, float(n), entry)


def _assembled(form: ScaledForm) -> tuple[Matrix, Array, int] | None:
    """(strictly lower part, diagonal, roundings of an entry) of the scaled matrix, the output included.

    None where slopes that do not reach zero couple too much.
    """
    network, t = form.network.to(torch.float64, "cpu"), form.t
    alpha, beta = slope_ranges(network)
    K, Y = freed_matrices(network)
    n, n_x = form.n, network.nodes[0].size
    product = 2 * t * alpha * beta
    apart = np.flatnonzero(alpha * beta < 0)  # -|product| a^2, as the output
    roots = _scaled(K[apart], np.sqrt(-product[apart]), form.scale)
    extra = sp.vstack([_scaled(Y.copy(), np.sqrt(form.outward), form.scale), roots], format="csr")
    joint = np.flatnonzero(product > 0)
    bent = _scaled(K[joint], np.ones(len(joint)), form.scale)
    lower = _scaled(K, -(alpha + beta) * t * form.scale[n_x:], form.scale)
    if (alpha + beta == 0).any():
        lower.eliminate_zeros()  # the pattern does not have them
    lower = _below(n_x, lower, extra)
    diagonal = np.concatenate([form.diagonal, np.ones(extra.shape[0])])
    collected = roundings(network) + 16
    if len(joint):
        positive = _weighted_gram(bent, product[joint])
        if positive is None:
            return None
        diagonal[:n] += positive.diagonal()
        positive = sp.tril(positive, -1, format="csr")
        positive.resize(lower.shape)
        lower = lower + positive
        collected = 2 * roundings(network) + len(joint) + 24
    return lower, diagonal, collected


def _weighted_gram(W: Matrix, weights: Array) -> Matrix | None:
    """W' diag(weights) W, whose entries are sums over the rows of W in some order; None where it is too large.

    A matrix of full rows is written out: what is stored entry by entry takes some twenty times as long.
    """
    if float((np.diff(W.indptr).astype(np.float64) ** 2).sum()) <= _MOST_PRODUCTS:
        return (W.T @ (sp.diags_array(weights) @ W)).tocsr()
    columns = np.unique(W.indices)
    if len(columns) > _MOST_COLUMNS:
        return None
    full = W[:, columns].toarray()
    gram = sp.coo_array(full.T @ (weights[:, None] * full))  # without its zeros, which the pattern does not have
    return sp.csr_array((gram.data, (columns[gram.row], columns[gram.col])), shape=(W.shape[1],) * 2)


def _scaled(W: Matrix, rows: Array, columns: Array) -> Matrix:
    """W with its rows and columns scaled, in its place: large matrices are not copied, and shared ones must be."""
    for start in range(0, W.shape[0], _ROWS):
        pointers = W.indptr[start : start + _ROWS + 1]
        data = W.data[pointers[0] : pointers[-1]]
        data *= np.repeat(rows[start : start + _ROWS], np.diff(pointers))
        data *= columns[W.indices[pointers[0] : pointers[-1]]]
    return W


def _below(first: int, *matrices: Matrix) -> Matrix:
    """The matrices below `first` empty rows, and as many columns as rows."""
    counts = [np.zeros(first, dtype=np.int64), *(np.diff(matrix.indptr) for matrix in matrices)]
    pointers = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    data, indices = (np.concatenate([getattr(m, name) for m in matrices]) for name in ("data", "indices"))
    n = first + sum(matrix.shape[0] for matrix in matrices)
    return sp.csr_array((data, indices, pointers.astype(indices.dtype)), shape=(n, n))


def is_norm_at_most(
    W: Matrix, bound: float, error: float, elimination: Elimination, deadline: float = math.inf
) -> bool:
    """Prove that every matrix within `error` of W, in the 2-norm, has a spectral norm of at most `bound`.

    That is [[bound I, W'], [W, bound I]] >= 0.

    Args:
        W: sparse, shape (m, n).
        bound: a number.
        error: non-negative.
        elimination: of that matrix.
        deadline: of `time.monotonic()`, at which it gives up.
    """
    m, n = W.shape
    lower = sp.csr_array(
        (W.data, W.indices, np.concatenate([np.zeros(n, dtype=W.indptr.dtype), W.indptr])), (m + n, m + n)
    )
    shift = add_up(error, factorisation_error(m + n, mul_up(float(m + n), bound)))
    diagonal = math.nextafter(bound - shift, -math.inf)
    known = bool(np.isfinite(W.data).all() and diagonal > 0)
    return known and factors(lower, np.full(m + n, diagonal), elimination, deadline)


def is_gram_at_most(
    G: Matrix, bound: float, error: float, elimination: Elimination, deadline: float = math.inf
) -> bool:
    """Prove that the eigenvalues of every symmetric matrix within `error` of G, in the 2-norm, are at most `bound`.

    Args:
        G: sparse and symmetric, shape (n, n).
        bound: a number.
        error: non-negative.
        elimination: of that matrix.
        deadline: of `time.monotonic()`, at which it gives up.
    """
    n = len(elimination.order)
    if not (math.isfinite(bound) and np.isfinite(G.data).all()):
        return False
    diagonal = bound - G.diagonal()
    shift = add_up(error, factorisation_error(n, mul_up(float(n), bound)), mul_up(2 * UNIT_ROUNDOFF, bound))
    diagonal = np.nextafter(diagonal - shift, -np.inf)
    known = bool((diagonal > 0).all())
    return known and factors(-sp.tril(G, -1, format="csr"), diagonal, elimination, deadline)
