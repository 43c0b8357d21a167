"""Ball arithmetic (Arb, by python-flint): every operation encloses its exact result, so what it proves is proved."""

from __future__ import annotations

from collections.abc import Iterable

import flint
import numpy as np
from numpy.typing import NDArray

from helpers import exact
from helpers.freed import record
from helpers.networks import Sample


def lmi(sample: Sample, t: NDArray[np.float64], rho: float) -> flint.fmpq_mat:
    """A(rho, t) as `helpers.exact.lmi` has it, with the products of matrices by Flint."""
    K, Y = exact.matrices(sample)
    found = record(sample, sample.inputs(1)[0])
    n, n_x = K.shape[1], K.shape[1] - len(K)
    b = exact.exact(np.eye(n)[n_x:])
    alpha, beta = (exact.exact(values)[:, None] for values in (found.alpha, found.beta))
    low, high = rational(b - alpha * K), rational(b - beta * K)
    A = _diagonal(rho if i < n_x else 0.0 for i in range(n)) - rational(Y).transpose() * rational(Y)
    if len(K):
        half = low.transpose() * (_diagonal(t.tolist()) * high)
        A = A + half + half.transpose()
    return A


def rational(A: NDArray[np.object_]) -> flint.fmpq_mat:
    """A matrix of fractions."""
    entries = [flint.fmpq(x.numerator, x.denominator) for x in A.ravel().tolist()]
    return flint.fmpq_mat(*A.shape, entries)


def is_positive_definite(A: flint.fmpq_mat, digits: int = 60) -> bool:
    """Whether LDL' of a symmetric matrix encloses positive pivots only; False says nothing."""
    precision, flint.ctx.dps = flint.ctx.dps, digits
    try:
        rows = [[flint.arb(x) for x in row[: i + 1]] for i, row in enumerate(A.tolist())]
        for k in range(len(rows)):
            if not rows[k][k] > 0:
                return False
            below = [(i, rows[i][k] / rows[k][k]) for i in range(k + 1, len(rows)) if not (rows[i][k] == 0)]  # noqa: SIM201 - balls that may differ from zero
            column = {i: rows[i][k] for i, _ in below}
            for i, factor in below:
                for j, value in column.items():
                    if j <= i:
                        rows[i][j] -= factor * value
        return True
    finally:
        flint.ctx.dps = precision


def _diagonal(values: Iterable[float]) -> flint.fmpq_mat:
    ratios = [flint.fmpq(*value.as_integer_ratio()) for value in values]
    A = flint.fmpq_mat(len(ratios), len(ratios))
    for i, ratio in enumerate(ratios):
        A[i, i] = ratio
    return A
