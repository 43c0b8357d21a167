"""What is claimed of a network as one LMI, and whether it can be proved.

The multipliers only choose which form is tried. LipSDP's matrix must be positive semidefinite with it, for the exact
weights. Then `|f(u) - f(v)|^2 <= rho |u - v|^2` for all u, v.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from lipguard.trusted.lmi.freed import FreedNetwork, are_tied, slope_ranges
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.lmi.underflow import is_in_range
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs.dense import Array, is_form, is_scalar_form
from lipguard.trusted.proofs.hints import Hints
from lipguard.trusted.proofs.randomised import is_positive_semidefinite_randomly
from lipguard.trusted.proofs.sparse import is_form_positive_semidefinite
from lipguard.trusted.rounding import rounds_as_ieee


@dataclass(frozen=True)
class WholeClaim:
    """That a block, as one LMI, has the Lipschitz constant sqrt(rho).

    Attributes:
        t: multipliers, one per neuron.
        rho: the square of the claimed bound.
        proof: "dense", "sparse" or "randomised".
        margin: for a randomised proof, the relative distance of the matrix from a singular one that it counts on.
        failure_probability: of a randomised proof.
    """

    t: Array
    rho: float
    proof: str
    margin: float = 0.0
    failure_probability: float = 0.0


@np.errstate(over="ignore", invalid="ignore")  # infinite and undefined results are refused, not warned of
def proves(
    claim: WholeClaim, network: Network, hints: Hints, freed: FreedNetwork | None = None, deadline: float = math.inf,
    device: torch.device | str = "cpu", entropy: bytes = b"",
) -> bool:  # fmt: skip
    """Whether the claim about `network` can be proved; False says nothing.

    Args:
        claim: of the whole of `network`.
        network: a block of its own.
        hints: who knows orders of elimination and estimates.
        freed: its matrices, if they are at hand and the proof is dense.
        deadline: of `time.monotonic()`, at which a proof that can be stopped gives up.
        device: where a sparse or randomised proof runs, if it rounds as IEEE 754 asks; else on the CPU.
        entropy: what a randomised proof draws from, beside the claim itself.
    """
    if not (is_in_range(claim.t, claim.rho, *slope_ranges(network)) and are_tied(network, claim.t)):
        return False
    if claim.proof == "dense":
        freed = freed or FreedNetwork.assemble(network)
        if freed.input_is_apart:
            return is_scalar_form(freed, claim.t, claim.rho)
        return is_form(freed, claim.t, freed.quadratic(claim.t), claim.rho * np.eye(freed.n_x))
    form = ScaledForm(network, claim.t, claim.rho, device if rounds_as_ieee(device) else "cpu")
    if claim.proof == "sparse":
        return is_form_positive_semidefinite(form, hints, deadline)
    text = f"{network.digest} {claim.rho.hex()} {claim.margin.hex()} {claim.failure_probability.hex()}"
    seed = text.encode() + claim.t.tobytes() + entropy
    return is_positive_semidefinite_randomly(form, hints, claim.margin, claim.failure_probability, seed, deadline)
