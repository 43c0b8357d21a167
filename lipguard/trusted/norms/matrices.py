"""Certified spectral norms of matrices.

Every number here is an upper bound. Power iteration converges from below: it is none.
"""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray

from lipguard.trusted.layers import Matrix
from lipguard.trusted.proofs.cholesky import largest_eigenvalue_bound
from lipguard.trusted.rounding import gamma_up, ldexp_up, mul_up, sqrt_up, up

Array = NDArray[np.float64]
DENSE_SIDE = 2048  # the largest dense Gram matrix to factor
_ROWS = 256  # that are looked at together
_PROBE = 512  # rows of the product that shows how fast this machine is at the moment


class LateNormError(Exception):
    """The norm of a layer would not be proved before its deadline.

    Args:
        bound: a looser one of that norm, which was.
    """

    def __init__(self, bound: float = math.inf) -> None:
        super().__init__("no time for the norm of a layer")
        self.bound = bound


def check(deadline: float, seconds: float = 0.0) -> None:
    """Go on only where so many seconds are left.

    Raises:
        LateNormError: they are not.
    """
    if time.monotonic() + seconds > deadline:
        raise LateNormError


@np.errstate(over="ignore", invalid="ignore")
def matrix_norm(W: Array, weight_ulps: int, deadline: float = math.inf) -> float:
    """Upper bound of the spectral norm of every matrix within gamma(weight_ulps) |W| of `W`, shape (m, n).

    Raises:
        LateNormError: it is predicted to take longer than to the deadline, of `time.monotonic()`.
    """
    if W.shape[0] > W.shape[1]:
        W = W.T
    if deadline < math.inf:
        check(deadline, _gram_seconds(*W.shape))
    size = float(np.abs(W).max(initial=0.0))
    if size == 0:
        return 0.0
    exponent = math.frexp(size)[1]
    W = np.ldexp(W, -exponent)  # exact but for underflow of entries that are 2^-1022 of the largest
    crude = crude_matrix_norm(W, weight_ulps)
    if len(W) > 4 * DENSE_SIDE:
        return ldexp_up(crude, exponent)
    G = W @ W.T
    lengths = np.linalg.norm(W, axis=1)
    # |W| |W|^T <= lengths lengths^T by Cauchy and Schwarz
    error = 1.01 * gamma_up(W.shape[1] + 2 * weight_ulps + 4) * np.outer(lengths, lengths) + 2.0**-1000
    return ldexp_up(min(crude, sqrt_up(largest_eigenvalue_bound(G, error))), exponent)


def _gram_seconds(m: int, n: int) -> float:
    """What the Gram matrix of m rows and the proof of its eigenvalue take, by what a small product takes now."""
    operations = m * m * float(n) + 2 * m**3 + 200 * m * m
    if operations < 1e9:
        return 0.0
    probe = np.ones((_PROBE, _PROBE))
    began = time.monotonic()
    probe @ probe
    return (time.monotonic() - began) * operations / (2.0 * _PROBE**3)


def crude_matrix_norm(W: Array | Matrix, weight_ulps: int) -> float:
    """sqrt(|W|_1 |W|_inf)."""
    A = abs(W)
    sums = mul_up(float(A.sum(axis=0).max()), float(A.sum(axis=1).max()))
    return mul_up(sqrt_up(sums), up(1 + gamma_up(sum(W.shape) + weight_ulps)))


def crude_norm_by_rows(W: Array, weight_ulps: int) -> float:
    """The same without a copy of a large matrix."""
    columns, largest = np.zeros(W.shape[1]), 0.0
    for start in range(0, len(W), _ROWS):
        sizes = np.abs(W[start : start + _ROWS])
        columns += sizes.sum(axis=0)
        largest = max(largest, float(sizes.sum(axis=1).max()))
    sums = mul_up(float(columns.max(initial=0.0)), largest)
    return mul_up(sqrt_up(sums), up(1 + gamma_up(sum(W.shape) + weight_ulps)))
