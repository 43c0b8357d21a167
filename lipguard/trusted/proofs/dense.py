"""Dense proofs, by shifted Cholesky of LipSDP's matrix or of its Schur complement."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs.cholesky import is_positive_semidefinite
from lipguard.trusted.proofs.claim import Claim, Means
from lipguard.trusted.rounding import SMALLEST_NORMAL, add_up, div_up, gamma_up, mul_up

Array = NDArray[np.float64]


def schur_factor(Q: Array, R: Array) -> Array | None:
    """H with H'H = Q' R^-1 Q, numerically, in the shape of Q, (neurons, n_x); None where R is not positive definite."""
    if not (np.isfinite(Q).all() and np.isfinite(R).all()):
        return None
    try:
        factor = scipy.linalg.cholesky(R, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return None
    H = scipy.linalg.solve_triangular(factor, Q, lower=True, check_finite=False)
    return H if np.isfinite(H).all() else None


def numerical_form(freed: FreedNetwork, A: Array) -> Array | None:
    """The smallest form S at the input, numerically: the Schur complement in A(0, t), shape (n_x, n_x)."""
    n = freed.n_x
    H = schur_factor(A[n:, :n], A[n:, n:])
    if H is None:
        return None
    S = H.T @ H - A[:n, :n]
    return (S + S.T) / 2


def check(claim: Claim, network: Network, means: Means) -> bool:
    """Whether the claim can be proved with LipSDP's matrix written out."""
    freed = means.freed or FreedNetwork.assemble(network)
    if freed.input_is_apart:
        return is_diagonal_form(freed, claim.t, claim.diagonal)
    form = np.diag(np.broadcast_to(claim.diagonal, freed.n_x))
    return is_form(freed, claim.t, freed.quadratic(claim.t), form)


def is_diagonal_form(freed: FreedNetwork, t: Array, s: Array) -> bool:
    """Prove [[diag(s), Q'], [Q, R]] positive semidefinite by its Schur complement R - Q diag(s)^-1 Q'.

    Args:
        freed: of a network whose input block of LipSDP's matrix is zero.
        t: multipliers.
        s: the form, shape (1,) or (n_x,).
    """
    (Q, R), (Q_abs, R_abs) = freed.hidden(t), freed.hidden_abs(t)
    M = R - (Q / s) @ Q.T
    magnitude = R_abs + (Q_abs / s) @ Q_abs.T
    # Twice the roundings of an entry of Q, the quotient, an inner product over the input and the difference.
    roundings = 2 * freed.form_roundings + freed.n_x + 4
    # Underflow in an entry of Q, or of a quotient, times a row of Q, and in every product of two of them.
    rows = 1.001 * float(Q_abs.sum(axis=1).max(initial=0.0))
    lost = mul_up(4.0, SMALLEST_NORMAL, add_up(div_up(rows, float(s.min())), rows, freed.n_x + 4.0))
    return is_positive_semidefinite(
        (M + M.T) / 2, gamma_up(roundings) * 1.001 * magnitude + add_up(lost, freed.form_underflow())
    )


def is_form(freed: FreedNetwork, t: Array, A: Array, S: Array) -> bool:
    """Prove that A(0, t) with S added to its input block is positive semidefinite; `A` is overwritten."""
    n = freed.n_x
    magnitude = freed.quadratic_abs(t)
    A[:n, :n] += S
    magnitude[:n, :n] += np.abs(S)
    error = gamma_up(freed.form_roundings + 2) * 1.001 * magnitude + freed.form_underflow()
    return is_positive_semidefinite(A, error)
