"""What proofs ask of those whom nobody has to trust: where a factorisation is to begin, about where a spectrum ends.

A bad answer makes a proof long, or makes it fail. None makes it accept what is not so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lipguard.trusted.layers import Conv2d, Shape
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs.order import Elimination


@dataclass(frozen=True)
class Hints:
    """Who is asked. All of them take a deadline, of `time.monotonic()`, as their last argument.

    Attributes:
        order: of elimination, of the matrix that a sparse proof of a network factors; raises `NoOrderError`.
        order_of_norm: the same for the norm of a convolution, given the shapes that it reads and makes, and whether the
            matrix is W W', or W' W, rather than both in one; raises `NoOrderError`.
        largest_eigenvalue: of a form, estimated in so many steps.
    """

    order: Callable[[Network, float], Elimination]
    order_of_norm: Callable[[Conv2d, Shape, Shape, bool, float], Elimination]
    largest_eigenvalue: Callable[[ScaledForm, int, float], float]
