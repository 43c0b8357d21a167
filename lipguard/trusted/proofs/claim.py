"""What is claimed of a network as one LMI, in values.

A proof never speaks of norms: with `diag(s)` at the input, LipSDP's matrix is positive semidefinite for the exact
weights, and so `|f(u) - f(v)|^2 <= (u - v)' diag(s) (u - v)` for all u, v. What that means in a norm of the input says
`lipguard.trusted.norms.input_norm`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lipguard.trusted.lmi.freed import FreedNetwork, are_tied, slope_ranges
from lipguard.trusted.lmi.underflow import is_in_range
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs.hints import Hints

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Claim:
    """That a network has the diagonal form diag(s) at its input; the multipliers only choose how that is proved.

    Attributes:
        t: multipliers, one per neuron.
        form: s, one number for all entries of the input or one for each.
        kind: of proof, a key of `CHECKS`.
        clearance: for a proof that may err, the relative distance of the matrix from a singular one that it counts on.
        failure_probability: of a proof that may err.
    """

    t: Array
    form: Array | float
    kind: str
    clearance: float = 0.0
    failure_probability: float = 0.0

    @property
    def diagonal(self) -> Array:
        """The form, shape (1,) or (entries of the input,)."""
        return np.atleast_1d(np.asarray(self.form, dtype=np.float64))

    def fits(self, network: Network) -> bool:
        """Whether it is about such a network, in numbers whose products are normal."""
        if self.diagonal.shape not in ((1,), (network.nodes[0].size,)) or self.t.shape != (network.neurons,):
            return False
        return is_in_range(self.t, self.diagonal, *slope_ranges(network)) and are_tied(network, self.t)


@dataclass(frozen=True, eq=False)
class Means:
    """How a proof is carried out. None of it makes a false one pass.

    Attributes:
        hints: who knows orders of elimination and estimates.
        freed: the network's matrices, if they are at hand, for proofs that write them out.
        deadline: of `time.monotonic()`, at which a proof that can be stopped gives up.
        device: where a proof runs that can, if it rounds as IEEE 754 asks; else on the CPU.
        entropy: what a proof draws from that is random, beside the claim itself.
    """

    hints: Hints
    freed: FreedNetwork | None = None
    deadline: float = math.inf
    device: torch.device | str = "cpu"
    entropy: bytes = b""
