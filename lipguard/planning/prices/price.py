"""What a proof would take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Proof:
    """A kind of proof with its predicted price.

    Attributes:
        kind: "dense", "sparse" or "randomised".
        seconds: predicted.
        bytes: predicted peak, beside the network.
        reason: why this one, in words.
    """

    kind: str
    seconds: float
    bytes: float
    reason: str = ""
