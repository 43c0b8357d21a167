"""Functions of which their slopes are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lipguard.trusted.layers.layer import ITSELF, Box, Layer, Matrix, Padding, Shape, Weightless, Windows


@dataclass(frozen=True, eq=False)
class Activation(Weightless):
    """An element-wise function whose difference quotients all lie in [alpha, beta].

    It has no linear part: what stands in for it is the caller's choice (a free variable, a slope, a relaxation). Errors
    are carried by what is between activations, and their slopes are bounded apart.

    The function has a name of its own, or is a partial of one that has, so that networks travel to other processes.

    With a `group` above one, the last axis of the value, of that size, is a group: what is known is that its answer is
    no longer than its question, |b| <= |a| (alpha = -1, beta = 1), entry by entry nothing. So all entries of a group
    have one multiplier; t (|a|^2 - |b|^2) >= 0 says no more than that.

    `within` gives the slopes of entries that stay in intervals, see `slopes`; None where [alpha, beta] has to do.
    `note` says which function is meant, where that is not plainly what torch computes; it is no part of the function.

    Raises:
        ValueError: slopes that are not finite, or not in order; a group of other slopes than [-1, 1].
    """

    name: str
    alpha: float
    beta: float
    function: Callable[[Tensor], Tensor]
    group: int = 1
    within: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not -math.inf < self.alpha <= self.beta < math.inf:
            raise ValueError(f"{self.name}: expected finite slopes in order, but got [{self.alpha}, {self.beta}].")
        if self.group < 1 or (self.group > 1 and (self.alpha, self.beta) != (-1, 1)):
            raise ValueError(f"{self.name}: expected groups with slopes in [-1, 1], but got {self.group} entries with "
                             f"[{self.alpha}, {self.beta}].")  # fmt: skip

    def linear(self, *inputs: Tensor) -> Tensor:
        raise NotImplementedError(f"{self.name} has no linear part.")

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(inputs[0])

    def roundings(self) -> int:
        return 0

    def adjoint_roundings(self) -> int:
        return 0

    def matrix(self, input_shape: Shape, shape: Shape) -> Matrix:
        raise NotImplementedError(f"{self.name} has no linear part.")

    def windows(self) -> Windows | None:
        return ITSELF if self.group == 1 else None  # a group is known as a whole, and is never cut in two

    def padded(self, padding: Padding) -> None:
        return

    def on_box(self, box: Box, shape: Shape) -> Layer:
        return self

    @property
    def lipschitz(self) -> float:
        """The largest magnitude of a slope."""
        return max(abs(self.alpha), abs(self.beta))


class Copies(Activation):
    """Copies of the entries, of which only the length is known: the identity, as one of slopes in [-1, 1].

    A class of its own, for other activations with these slopes, |x| and groups, are no copies of what they read.
    """


def copies() -> Copies:
    """Copies of whatever is read."""
    return Copies("copies", -1.0, 1.0, _itself)


def _itself(x: Tensor) -> Tensor:
    return x
