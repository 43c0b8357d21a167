"""What a proof of one LMI would take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """What a proof takes on a machine of known speed that keeps to predictions.

    Attributes:
        seconds: of it.
        bytes: at its peak, beside the network.
        too_large: whether it factors a larger dense matrix than it may.
    """

    seconds: float
    bytes: float
    too_large: bool = False


@dataclass(frozen=True)
class Price:
    """A kind of proof with what it is predicted to take.

    Attributes:
        kind: a key of `CHECKS`.
        seconds: predicted, by what was learned of this machine.
        bytes: predicted peak, beside the network.
        too_large: whether it factors a larger dense matrix than it may.
        reason: why this one, in words.
    """

    kind: str
    seconds: float
    bytes: float
    too_large: bool = False
    reason: str = ""

    def fits(self, memory: float) -> bool:
        """Whether it takes neither more than so many bytes nor a dense matrix that is too large."""
        return self.bytes <= memory and not self.too_large
