"""What a solver proposes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lipguard.proposing.outcome import Outcome

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Directions:
    """Where a vector relaxation ended: a few vectors, close to the null space of LipSDP's matrix.

    Attributes:
        values: of the variables (x, b_1, .., b_L), shape (vectors, n).
        pre_activations: of the same vectors, shape (vectors, neurons).
    """

    values: Array
    pre_activations: Array


@dataclass(frozen=True, eq=False)
class Proposal:
    """What a solver proposes.

    Attributes:
        multipliers: one per neuron of the original network, or None if there are none to use.
        value: the solver's own idea of the bound, sqrt(rho); not a bound.
        status: "solved", "inaccurate (why)", "failed (why)" or "interrupted": a text that knows its parts.
        state: arrays to warm-start the same solver with, on the same block with other weights.
        iterations: iterations used.
        directions: what the multipliers can be adjusted with, where each neuron has its own.
    """

    multipliers: Array | None
    value: float
    status: Outcome
    state: Mapping[str, Array] = field(default_factory=dict)
    iterations: int = 0
    directions: Directions | None = None

    @classmethod
    def without_multipliers(cls, status: Outcome) -> Proposal:
        """What a solver proposes that has come to nothing."""
        return cls(None, math.nan, status)
