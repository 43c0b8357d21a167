"""Who is asked for orders of elimination and estimates, wherever something is proved."""

from __future__ import annotations

from lipguard.planning.orders.elimination import elimination_of, elimination_of_norm
from lipguard.proposing.feasible.lanczos import extreme_eigenvalues
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.proofs.hints import Hints


def _largest_eigenvalue(form: ScaledForm, steps: int, deadline: float) -> float:
    return extreme_eigenvalues(form, steps, deadline=deadline)[1]


HINTS = Hints(elimination_of, elimination_of_norm, _largest_eigenvalue)
