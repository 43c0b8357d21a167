"""Margins where they are missing: of the first layers more than of the others, or wherever A(rho, t) is indefinite.

What an iteration leaves undone concentrates on few layers: of a residual network in training, directions in which A is
indefinite live on the input and the first activations. A clearance for every layer alike costs the bound its size once
per layer; a clearance for a block of variables costs it once. How much each block needs is a small linear program, min
sum g subject to v' B v + sum_l g_l |v_l|^2 >= wanted for every direction v that was met, and Lanczos' method finds the
directions, round after round (Kelley's cutting planes).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipguard.proposing.feasible.lanczos import smallest_eigenvectors
from lipguard.proposing.feasible.uniform import enlarged_by_layer, enlarged_uniformly
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.network.graph import Network

Array = NDArray[np.float64]
_UNSEEN = 4.0  # Lanczos' method may miss this much over the square of its steps
_BESIDE = 1e-3  # directions that are this little above what is wanted are worth a cut, too


def enlarged_as_needed(
    network: Network, t: Array, rho: float, wanted: float, steps: int, rounds: int, enough: float,
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64, deadline: float = math.inf,
) -> tuple[Array, float, float]:  # fmt: skip
    """Multipliers and rho with clearances by layer, such that what is still missing is cheaper as a clearance for all.

    Args:
        network: the network that they are for.
        t: proposed multipliers, shape (neurons,).
        rho: the proposed square of the bound.
        wanted: the smallest eigenvalue that the scaled matrix is to have in the end.
        steps: of Lanczos' method, in each round.
        rounds: of clearances, at most.
        enough: a relative gain of the bound for which another round is not worth its time.
        device: where the passes run.
        dtype: of the passes.
        deadline: of `time.monotonic()`, at which the best so far has to do.

    Returns:
        (t, rho, missing): the best that was met, and how far its smallest eigenvalue is below what is wanted, by an
        estimate; infinite where there is none.
    """
    program = _Program([network.nodes[i].size for i in (0, *network.activations)], wanted)
    clearances = np.zeros(len(program.blocks))
    near: Tensor | None = None
    best, least = (t, rho, math.inf), math.inf
    if not 0 < rho < math.inf:
        return best

    def claim(t: Array, rho: float, missing: float) -> float:
        return enlarged_uniformly(network, t, rho, (1 - missing) ** -2 - 1)[1] if missing < 0.5 else math.inf

    for left in reversed(range(rounds + 1)):
        now_t, now_rho = enlarged_by_layer(network, t, rho, clearances)
        form = ScaledForm(network, now_t, now_rho, device, dtype=dtype)
        values, near, residual = smallest_eigenvectors(form, steps, near=near, deadline=deadline)
        if left == rounds and residual > wanted + _UNSEEN / steps**2:  # once more, from a better start than chance
            values, near, residual = smallest_eigenvectors(form, steps, near=near, deadline=deadline)
        if not len(values):
            if dtype != torch.float64:  # what single precision cannot hold
                return enlarged_as_needed(network, t, rho, wanted, steps, rounds, enough, device, deadline=deadline)
            break
        unavoidable = wanted + min(residual, _UNSEEN / steps**2)
        missing = max(unavoidable - float(values[0]), 0.0)
        claimed = claim(now_t, now_rho, missing)
        before, rest = least, claimed / claim(t, rho, min(missing, unavoidable))
        if claimed < least:
            best, least = (now_t, now_rho, missing), claimed
        cheap = rest < 1 + 2 * enough  # rho is the square of the bound
        if not left or cheap or time.monotonic() > deadline or claimed > before * (1 - enough):
            break
        program.meet(values.tolist(), near, clearances)
        found = program.solution()
        if found is None:
            break
        clearances = found
    return best


class _Program:
    """The linear program: the cheapest clearances, shape (blocks,), for every direction that was met.

    Args:
        blocks: entries of the input and of every activation.
        wanted: the smallest eigenvalue that the scaled matrix is to have.
    """

    def __init__(self, blocks: Sequence[int], wanted: float) -> None:
        self.blocks, self.wanted = list(blocks), wanted
        self.cuts: list[Array] = []
        self.needs: list[float] = []

    def meet(self, values: Sequence[float], vectors: Tensor, clearances: Array) -> None:
        """Take up directions, shape (directions, n), with their values under some clearances."""
        for value, vector in zip(values, vectors, strict=True):
            if value < self.wanted + _BESIDE:
                share = np.array([float(part.square().sum()) for part in torch.split(vector, self.blocks)])
                self.cuts.append(-share)
                self.needs.append(value - self.wanted - float(share @ clearances))

    def solution(self) -> Array | None:
        """The clearances; None where there are none."""
        from scipy.optimize import linprog  # takes a while to import, and is not needed to verify

        price = np.array([0.5, *[1.0] * (len(self.blocks) - 1)])  # a square root of the input's
        found: Array | None = linprog(price, A_ub=np.array(self.cuts), b_ub=np.array(self.needs)).x
        return found
