"""Rigorous proofs of large LMIs by sparse Cholesky factorisation.

The same theorem as for dense matrices (`lipguard.certificate.cholesky`), which allows any order of elimination and of
summation. CHOLMOD comes with `cvxopt`, an optional dependency.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from lipguard.certificate.cholesky import factorisation_error
from lipguard.certificate.rounding import add_up, gamma_up, mul_up, sqrt_up
from lipguard.network.form import ScaledForm
from lipguard.network.linearised import roundings, slope_ranges
from lipguard.network.matrices import Matrix, freed_matrices

Array = NDArray[np.float64]
_MOST_PRODUCTS = 3e8  # entries that slopes which do not reach zero may add


def is_form_positive_semidefinite(form: ScaledForm, t: Array) -> bool:
    """Prove A(rho, t) >= 0, for the exact weights.

    The output, and slopes of both signs, enter the matrix as squares with a minus sign, -|Y z|^2, which would couple
    all that the output reads. With the output as a variable of its own, [[A, Y'], [Y, I]], the matrix stays sparse;
    eliminating it gives the original back.

    Args:
        form: of the network, its multipliers and rho.
        t: the multipliers.

    Returns:
        True only if it is proved; False says nothing.
    """
    if not (np.isfinite(form.diagonal).all() and (form.diagonal > 0).all()):
        return False
    assembled = _assembled(form, t)
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


def _assembled(form: ScaledForm, t: Array) -> tuple[Matrix, Array, int] | None:
    """(strictly lower part, diagonal, roundings of an entry) of the scaled matrix, the output included.

    None where slopes that do not reach zero couple too much.
    """
    network = form.network.to(torch.float64, "cpu")
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


def is_shifted_gram_positive_semidefinite(G: Matrix, bound: float, error: float) -> bool:
    """Prove that every symmetric matrix within `error`, in the 2-norm, of `bound I - G` is positive semidefinite.

    Args:
        G: symmetric, sparse.
        bound: a number.
        error: non-negative.
    """
    n = G.shape[0]
    diagonal = bound - G.diagonal()
    shift = add_up(error, factorisation_error(n, float(np.abs(diagonal).sum())), 2.0**-50 * bound)
    diagonal = np.nextafter(diagonal - shift, -np.inf)
    lower = -sp.tril(G, -1, format="csr")
    return bool(np.isfinite(lower.data).all() and (diagonal > 0).all()) and _factors(lower, diagonal)


def _factors(lower: Matrix, diagonal: Array) -> bool:
    """Whether the Cholesky factorisation of the matrix runs to completion."""
    from cvxopt import cholmod, matrix, spmatrix  # type: ignore[import-untyped,unused-ignore]

    n = len(diagonal)
    entries = lower.tocoo()
    index = np.arange(n)
    values = np.concatenate([entries.data, diagonal])
    rows, columns = (np.concatenate([c, index]).astype(np.int64) for c in entries.coords)
    A = spmatrix(matrix(values), matrix(rows), matrix(columns), (n, n))
    before = dict(cholmod.options)
    cholmod.options["supernodal"] = 2  # L L': the other kinds go on past a negative pivot
    try:
        factor = cholmod.symbolic(A, uplo="L")
        cholmod.numeric(A, factor)
    except ArithmeticError:
        return False
    finally:
        cholmod.options.clear()
        cholmod.options.update(before)
    return True
