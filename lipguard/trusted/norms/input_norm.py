"""What a diagonal form at the input proves in a norm of the input.

With |f(u) - f(v)|^2 <= (u - v)' diag(s) (u - v), the Lipschitz constant in a norm is at most the square root of the
largest (u - v)' diag(s) (u - v) over its unit ball: the largest entry of s for l2, that of s / w for the norm
sqrt(x' diag(w) x), and the sum of the entries for l-infinity. All numbers are rounded up.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipguard.errors import ConfigError
from lipguard.trusted.layers import Shape
from lipguard.trusted.rounding import div_up, mul_up, sqrt_up, up

Array = NDArray[np.float64]


class InputNorm(abc.ABC):
    """A norm of differences of inputs."""

    @abc.abstractmethod
    def largest(self, form: Array, shape: Shape) -> float:
        """The largest value of a form on the unit ball, at most.

        Args:
            form: not negative, shape (1,) where all entries are the same, or (entries,).
            shape: of a sample.
        """

    def bound(self, form: Array, shape: Shape) -> float:
        """The Lipschitz constant that a form proves."""
        return sqrt_up(self.largest(form, shape))

    def of_l2(self, bound: float, shape: Shape) -> float:
        """The Lipschitz constant that one in l2 proves."""
        return mul_up(bound, sqrt_up(self.largest(np.ones(1), shape)))


@dataclass(frozen=True)
class L2(InputNorm):
    """The Euclidean norm."""

    def largest(self, form: Array, shape: Shape) -> float:
        """The largest entry."""
        return float(form.max())

    def of_l2(self, bound: float, shape: Shape) -> float:
        """The same."""
        return bound


@dataclass(frozen=True)
class PerChannel(InputNorm):
    """The Euclidean norm of differences times a number for each channel: sqrt(sum of (std_c x_c)^2).

    For inputs that were divided by the standard deviations of their channels it is the Euclidean norm of the images
    before that.

    Args:
        std: one number for each channel, the first axis of a sample.

    Raises:
        ConfigError: one is not positive and finite.
    """

    std: tuple[float, ...]

    def __init__(self, std: Sequence[float]) -> None:
        object.__setattr__(self, "std", tuple(float(value) for value in std))
        if not self.std or not all(0 < value < math.inf for value in self.std):
            raise ConfigError(f"Expected a positive number for each channel, but got {std!r}.")

    def largest(self, form: Array, shape: Shape) -> float:
        """The largest of the entries over the squares of their channels.

        Raises:
            ConfigError: there is not one number for each channel.
        """
        if len(self.std) != shape[0]:
            raise ConfigError(
                f"Expected one standard deviation for each of {shape[0]} channels, but got {len(self.std)}."
            )
        of_channels = np.broadcast_to(form, math.prod(shape)).reshape(shape[0], -1).max(axis=1).tolist()
        return max(div_up(div_up(s, std), std) for s, std in zip(of_channels, self.std, strict=True))


@dataclass(frozen=True)
class LInfinity(InputNorm):
    """The largest magnitude of an entry."""

    def largest(self, form: Array, shape: Shape) -> float:
        """The sum of the entries."""
        if len(form) == 1:
            return mul_up(float(form[0]), float(math.prod(shape)))
        return up(math.fsum(form))  # rounded once
