"""Rigorous proofs that a matrix known up to entrywise errors is positive semidefinite.

Rump, "Verification of positive definiteness", BIT Numerical Mathematics 46 (2006), Theorem 2.3: if the floating-point
Cholesky factorisation of a symmetric `A` whose diagonal was lowered by `c` runs to completion, then `A` is positive
semidefinite, where `c` covers the rounding of any factorisation in any order of summation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from numpy.typing import NDArray

from lipguard.trusted.rounding import SMALLEST_SUBNORMAL, UNIT_ROUNDOFF, add_up, div_up, gamma_up, mul_up, up

Array = NDArray[np.float64]
# Scaling beyond this would bring entries near the ends of the exponent range, where the error terms do not hold.
_LARGEST_SCALE = 2.0**400  # a diagonal from 2^-800 on


@np.errstate(over="ignore", invalid="ignore")  # infinite and undefined results are refused, not warned of
def is_positive_semidefinite(A: Array, error: Array) -> bool:
    """Prove that every symmetric matrix within `error` of `A`, entry by entry, is positive semidefinite.

    Args:
        A: symmetric, shape (n, n).
        error: non-negative, shape (n, n).

    Returns:
        True only if it is proved; False says nothing.
    """
    n = len(A)
    if n == 0:
        return True
    diagonal = np.diag(A)
    if not (np.isfinite(A).all() and np.isfinite(error).all() and (diagonal > 0).all()):
        return False
    # Congruence with powers of two is exact, keeps the sign of every eigenvalue and brings the diagonal into [1, 4).
    scale = np.exp2(-np.floor(np.log2(diagonal) / 2))
    if scale.max() > _LARGEST_SCALE or scale.min() < 1 / _LARGEST_SCALE:
        return False
    # The products of two scales are exact, and so one product is all that may underflow: within `factorisation_error`.
    both = np.outer(scale, scale)
    B = A * both
    # |E|_2 <= |E|_inf for symmetric E; the sum of n non-negative terms is off by gamma_n at most.
    rows = (error * both).sum(axis=1)
    lost = mul_up(float(rows.max()), up(1 + gamma_up(n + 2)))
    shift = add_up(lost, factorisation_error(n, float(np.trace(B))))
    np.fill_diagonal(B, np.nextafter(np.diag(B) - shift, -np.inf))
    if not (np.diag(B) > 0).all():
        return False
    try:
        factor = scipy.linalg.cholesky(B, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        return False
    # A pivot that is not a number passes some implementations' test of its sign.
    return bool(np.isfinite(np.diag(factor)).all())


def factorisation_error(n: int, trace: float) -> float:
    """The shift `c` of Rump's theorem for a matrix of order n, with a generous underflow term.

    It covers products that are flushed to zero below 2^-1022, and an error of that size in every entry of the matrix.
    """
    g = gamma_up(n + 2)
    relative = mul_up(div_up(g, 1 - g), trace, up(1 + gamma_up(n + 2)))
    return add_up(relative, mul_up(8.0 * n * (n + 4), SMALLEST_SUBNORMAL * 2.0**53))


def slacks(n: int, least: float = 0.0) -> Iterator[float]:
    """Relative clearances to try on a matrix of order n: from about what `factorisation_error` takes, up to a tenth."""
    slack = max(16.0 * n * n * UNIT_ROUNDOFF, least)
    while slack < 0.1:
        yield slack
        slack *= 8


@np.errstate(over="ignore", invalid="ignore")
def largest_eigenvalue_bound(G: Array, error: Array) -> float:
    """A proved upper bound of the largest eigenvalue of every symmetric matrix within `error` of the PSD matrix `G`.

    An estimate is raised until the proof goes through; the last resort is the largest row sum.
    """
    total = np.abs(G) + error
    rows = mul_up(float(total.sum(axis=1).max(initial=0.0)), up(1 + gamma_up(len(G) + 2)))
    if rows == 0 or not math.isfinite(rows):
        return rows
    estimate = largest_eigenvalue(G)
    for slack in slacks(len(G)):
        bound = estimate * (1 + slack)
        if bound >= rows:
            break
        if is_positive_semidefinite(*minus(bound, G, error)):
            return bound
    return rows


def minus(bound: float, G: Array, error: Array) -> tuple[Array, Array]:
    """`bound I - G` with its entrywise error."""
    A = -G
    A[np.diag_indices_from(A)] += bound
    widened = error.copy()
    widened[np.diag_indices_from(A)] += np.abs(np.diag(A)) * 2.0**-52
    return A, widened


def largest_eigenvalue(G: Any, tolerance: float = 1e-9) -> float:
    """Of a symmetric matrix, or linear operator, numerically; nothing depends on its accuracy."""
    n = G.shape[0]
    if n <= 400:
        return last_eigenvalue(G if isinstance(G, np.ndarray) else G @ np.eye(n))
    start = np.abs(G).sum(axis=1) if isinstance(G, np.ndarray) else np.ones(n)
    try:
        return float(scipy.sparse.linalg.eigsh(G, k=1, v0=start, tol=tolerance, return_eigenvectors=False)[0])
    except scipy.sparse.linalg.ArpackError:
        return last_eigenvalue(G if isinstance(G, np.ndarray) else G @ np.eye(n))


def last_eigenvalue(S: Array) -> float:
    """The largest eigenvalue of a dense symmetric matrix, numerically."""
    n = len(S)
    try:
        return float(scipy.linalg.eigvalsh(S, subset_by_index=(n - 1, n - 1))[0])
    except np.linalg.LinAlgError:  # LAPACK's dsyevr gives up on some matrices of nearly no rank
        return float(np.linalg.eigvalsh(S)[-1])
