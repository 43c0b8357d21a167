"""What a solver proposes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lipguard.proposing.conic.problem import Array


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
        status: "solved", "inaccurate (why)" or "failed (why)".
        state: arrays to warm-start the same solver with, on the same block with other weights.
        iterations: iterations used.
        directions: what the multipliers can be adjusted with, where each neuron has its own.
    """

    multipliers: Array | None
    value: float
    status: str
    state: Mapping[str, Array] = field(default_factory=dict)
    iterations: int = 0
    directions: Directions | None = None
