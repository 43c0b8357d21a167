"""Activations of which it is known where their values are, too; some have slopes on intervals only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lipguard.trusted.layers.activation import Activation


@dataclass(frozen=True, eq=False)
class Ranged(Activation):
    """An activation with what its values are where its arguments stay in intervals.

    Its slopes may be infinite: the function then has a constant only where `within` finds finite ones, and a network
    that holds it is bounded on such a part of the input space, or not at all.

    Of a group `within` gives -k and k, where f(u) - f(v) is no longer than k times u - v for u, v in the intervals, the
    same number for all entries of a group.

    `image` takes the ends of intervals, which may be infinite, and gives those of the values, entry by entry; None
    where only slopes are known. Its roundings are for the caller to count: it is off by no more than the function is.

    Raises:
        ValueError: infinite slopes without `within`.
    """

    image: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def __post_init__(self) -> None:
        if self.has_constant or self.within is None or self.group > 1:
            super().__post_init__()
        elif not self.alpha <= self.beta:
            raise ValueError(f"{self.name}: expected slopes in order, but got [{self.alpha}, {self.beta}].")

    @property
    def has_constant(self) -> bool:
        """Whether its slopes are finite everywhere."""
        return math.isfinite(self.alpha) and math.isfinite(self.beta)


class Factor(Activation):
    """What is read, times something of which only the size is known: numbers in an interval, or matrices in groups.

    It stands for one side of a product on a domain (`Bilinear`). Which numbers belong to a pair of inputs is no
    function of what is read, so it is never computed.
    """


def factor(alpha: float, beta: float, group: int = 1) -> Factor:
    """A number in [alpha, beta] for every entry; or for every group a matrix of norm one at most."""
    return Factor("a factor on a domain", alpha, beta, _unknown, group)


def _unknown(x: Tensor) -> Tensor:
    raise NotImplementedError("A factor on a domain stands for what depends on a pair of inputs, and is not computed.")
