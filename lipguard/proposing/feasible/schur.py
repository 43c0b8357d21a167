"""The form that multipliers give, numerically: nothing of it is proved."""

from __future__ import annotations

import numpy as np

from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.proofs.cholesky import last_eigenvalue
from lipguard.trusted.proofs.dense import Array, numerical_form, schur_factor


@np.errstate(over="ignore", invalid="ignore")
def form_norm(freed: FreedNetwork, t: Array) -> float:
    """The largest eigenvalue of the form that the multipliers give, numerically; infinite where there is none."""
    if freed.input_is_apart:
        H = schur_factor(*freed.hidden(t))
        S = None if H is None else H @ H.T if len(H) < freed.n_x else H.T @ H
    else:
        S = numerical_form(freed, freed.quadratic(t))
    if S is None or not np.isfinite(S).all():
        return np.inf
    return max(0.0, last_eigenvalue(S)) if len(S) else 0.0
