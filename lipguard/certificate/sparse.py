"""Rigorous proofs of large LMIs by sparse Cholesky factorisation.

The same theorem as for dense matrices (`lipguard.certificate.cholesky`), which allows any order of elimination and of
summation. CHOLMOD comes with `cvxopt`, an optional dependency.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from lipguard.certificate.cholesky import factorisation_error
from lipguard.certificate.rounding import add_up, gamma_up, mul_up, sqrt_up
from lipguard.network.form import ScaledForm
from lipguard.network.linearised import roundings, slope_ranges
from lipguard.network.matrices import Indices, Matrix, freed_matrices

Array = NDArray[np.float64]
_KEPT, _LARGEST_KEPT = 16, 2_000_000  # patterns, and entries of one
_MOST_PRODUCTS = 3e8  # entries that slopes which do not reach zero may add


def is_form_positive_semidefinite(form: ScaledForm) -> bool:
    """Prove A(rho, t) >= 0, for the exact weights.

    The output, and slopes of both signs, enter the matrix as squares with a minus sign, -|Y z|^2, which would couple
    all that the output reads. With the output as a variable of its own, [[A, Y'], [Y, I]], the matrix stays sparse;
    eliminating it gives the original back.

    Args:
        form: of the network, its multipliers and rho.

    Returns:
        True only if it is proved; False says nothing.
    """
    if not (np.isfinite(form.diagonal).all() and (form.diagonal > 0).all()):
        return False
    assembled = _assembled(form)
    if assembled is None or not (np.isfinite(assembled[0].data).all() and np.isfinite(assembled[1]).all()):
        return False
    lower, diagonal, collected = assembled
    # M bounds the rows of |A|, and of |Y|'|Y| in it; for symmetric E, |E|_2 <= |E|_inf, and |Y|_2 <= sqrt(M).
    ones = torch.ones(1, form.n, dtype=torch.float64, device=form.device)
    rows = float(form.magnitude(ones).max()) * (1 + 2 * gamma_up(form.roundings))
    lost = mul_up(1.001 * gamma_up(collected), add_up(rows, sqrt_up(rows), 1.0))
    shift = add_up(lost, factorisation_error(len(diagonal), float(diagonal.sum())))
    diagonal = np.nextafter(diagonal - shift, -np.inf)
    return bool((diagonal > 0).all()) and _factors(lower, diagonal)


def _assembled(form: ScaledForm) -> tuple[Matrix, Array, int] | None:
    """(strictly lower part, diagonal, roundings of an entry) of the scaled matrix, the output included.

    None where slopes that do not reach zero couple too much.
    """
    network, t = form.network.to(torch.float64, "cpu"), form.t
    alpha, beta = slope_ranges(network)
    K, Y = freed_matrices(network)
    n, n_x = form.n, network.nodes[0].size
    product = 2 * t * alpha * beta
    scale = sp.diags_array(form.scale)
    cross = sp.diags_array(-(alpha + beta) * t * form.scale[n_x:]) @ K @ scale
    apart = np.flatnonzero(product < 0)  # -|product| a^2, as the output
    extra = sp.vstack([Y, sp.diags_array(np.sqrt(-product[apart])) @ K[apart]], format="csr") @ scale
    lower = sp.vstack([sp.csr_array((n_x, n)), cross, extra], format="csr")
    lower.resize((n + extra.shape[0], n + extra.shape[0]))
    diagonal = np.concatenate([form.diagonal, np.ones(extra.shape[0])])
    collected = roundings(network) + 16
    joint = np.flatnonzero(product > 0)
    if len(joint):
        bent = K[joint] @ scale
        if float((np.diff(bent.indptr).astype(np.float64) ** 2).sum()) > _MOST_PRODUCTS:
            return None
        positive = (bent.T @ (sp.diags_array(product[joint]) @ bent)).tocsr()
        diagonal[:n] += positive.diagonal()
        positive = sp.tril(positive, -1, format="csr")
        positive.resize(lower.shape)
        lower = lower + positive
        collected = 2 * roundings(network) + len(joint) + 24
    return lower, diagonal, collected


def is_norm_at_most(W: Matrix, bound: float, error: float) -> bool:
    """Prove that every matrix within `error` of W, in the 2-norm, has a spectral norm of at most `bound`.

    That is [[bound I, W], [W', bound I]] >= 0.

    Args:
        W: sparse, shape (m, n).
        bound: a number.
        error: non-negative.
    """
    m, n = W.shape
    lower = sp.csr_array(
        (W.data, W.indices, np.concatenate([np.zeros(n, dtype=W.indptr.dtype), W.indptr])), (m + n, m + n)
    )
    shift = add_up(error, factorisation_error(m + n, mul_up(float(m + n), bound)))
    diagonal = math.nextafter(bound - shift, -math.inf)
    return bool(np.isfinite(W.data).all() and diagonal > 0) and _factors(lower, np.full(m + n, diagonal))


@dataclass(frozen=True, eq=False)
class _Analysis:
    """A pattern that was analysed before, with CHOLMOD's matrix and ordering for it."""

    starts: Indices
    rows: Indices
    matrix: Any
    ordering: Any


_analysed: OrderedDict[int, _Analysis] = OrderedDict()


def _factors(lower: Matrix, diagonal: Array) -> bool:
    """Whether the Cholesky factorisation of the matrix runs to completion."""
    from cvxopt import cholmod, matrix  # type: ignore[import-untyped,unused-ignore]

    A = (lower + sp.diags_array(diagonal)).tocsc()
    A.sort_indices()
    before = dict(cholmod.options)
    cholmod.options["supernodal"] = 2  # L L': the other kinds go on past a negative pivot
    try:
        known = _analysis(A)
        known.matrix.V = matrix(A.data)
        cholmod.numeric(known.matrix, known.ordering)
    except ArithmeticError:
        return False
    finally:
        cholmod.options.clear()
        cholmod.options.update(before)
    return True


def _analysis(A: Matrix) -> _Analysis:
    """The ordering of a pattern, kept for the next epoch's matrix where it is small."""
    from cvxopt import cholmod, matrix, spmatrix

    key = hash((A.shape[0], A.indices[:: max(A.nnz // 1000, 1)].tobytes()))
    known = _analysed.get(key)
    if known is not None and np.array_equal(known.starts, A.indptr) and np.array_equal(known.rows, A.indices):
        _analysed.move_to_end(key)
        return known
    columns = np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))
    stored = spmatrix(
        matrix(A.data), matrix(A.indices.astype(np.int64)), matrix(columns.astype(np.int64)), tuple(map(int, A.shape))
    )
    found = _Analysis(A.indptr, A.indices, stored, cholmod.symbolic(stored, uplo="L"))
    if A.nnz <= _LARGEST_KEPT:
        _analysed[key] = found
        while len(_analysed) > _KEPT:
            _analysed.popitem(last=False)
    return found
