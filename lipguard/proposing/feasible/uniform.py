"""Multipliers that are nearly feasible, made feasible: of an inaccurate solver, or of another epoch's weights.

With the factor c > 1 per layer, t_l c^(d_l) in place of t_l and rho c^(d_0) in place of rho, where d counts the
activations that are still to come, is a congruence that divides everything between layers, and the output, by sqrt(c)
at least: A becomes (1 - c^-1/2) diag(rho, 2T) + c^-1/2 A, up to that congruence. So a matrix that misses positive
semidefiniteness by a relative (c - 1)/2 is repaired, at the price of c^(d_0/2) in the bound. That is for alpha beta
<= 0; slopes that stay away from zero gain a smaller clearance.

More generally, of a chain: with factors e >= 1, one per block of variables (the input, every activation's outputs),
t_l e_l prod e_m^2 over the activations m behind, and rho e_0 prod e_m^2, make A, up to congruence, into
A + diag(rho (e_0 - 1), 2 t_l (e_l - 1)): every block gets the clearance that it asks for, at the price of
sqrt(e_0) prod e_m in the bound. Where A is indefinite on a few layers only, that is far less than a factor for all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lipguard.trusted.lmi.underflow import SMALLEST_MULTIPLIER
from lipguard.trusted.network.graph import Network

Array = NDArray[np.float64]
_STEPS = (0.0, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
# Of the largest in its layer. A multiplier of zero frees its neuron; a little too small costs more than too large.
_FLOORS = (1e-9, 1e-5, 1e-3)
_LEAST = 2 * SMALLEST_MULTIPLIER  # of all: no proof takes smaller ones


def enlarged_uniformly(network: Network, t: Array, rho: float, step: float) -> tuple[Array, float]:
    """(t, rho) with the clearance that a factor 1 + step per layer gives, after a floor for multipliers of zero.

    Args:
        network: the network that they are for.
        t: proposed multipliers.
        rho: the proposed square of the bound.
        step: c - 1.
    """
    depth = network.depths
    sizes = [network.nodes[i].size for i in network.activations]
    powers = np.repeat([depth[i] for i in network.activations], sizes)
    return _floored(t, sizes) * (1 + step) ** powers, rho * (1 + step) ** depth[0]


def enlarged_by_layer(network: Network, t: Array, rho: float, clearances: Array) -> tuple[Array, float]:
    """(t, rho) with a clearance for every block of variables, after a floor for multipliers of zero.

    Args:
        network: the network that they are for.
        t: proposed multipliers.
        rho: the proposed square of the bound.
        clearances: e - 1 of the module's docstring, shape (1 + activations,): the input's, then in order of execution.
    """
    own = dict(zip([0, *network.activations], 1 + clearances, strict=True))
    behind = [1.0] * len(network.nodes)  # the largest product of e^2 on a path from the node's output
    for i in range(len(network.nodes) - 1, 0, -1):
        below = behind[i] * own.get(i, 1.0) ** 2
        for j in network.nodes[i].inputs:
            behind[j] = max(behind[j], below)
    sizes = [network.nodes[i].size for i in network.activations]
    factors = np.repeat([own[i] * behind[i] for i in network.activations], sizes)
    return _floored(t, sizes) * factors, float(rho * own[0] * behind[0])


def _floored(t: Array, sizes: Sequence[int]) -> Array:
    largest = [part.max(initial=0.0) or 1.0 for part in _split(t, sizes)]
    floored: Array = np.maximum(t, np.maximum(_FLOORS[0] * np.repeat(largest, sizes), _LEAST))
    return floored


def enlarged_until_feasible(
    t: Array, layers: Sequence[int], norm: Callable[[Array], float], enough: float = 0.0, deadline: float = math.inf
) -> tuple[Array, float] | None:
    """The best of a few enlargements of `t`, with its norm; None where no form exists for any of them.

    Multipliers that are too small for their layer are raised to a floor. Growing every layer's by a factor more than
    those behind it keeps or restores feasibility, for a layer must outweigh what the next one reads of it.

    Args:
        t: proposed multipliers, non-negative, in order of layers.
        layers: number of neurons of each layer, in order of execution.
        norm: what a form for given multipliers is worth; infinite where there is none. Each call factors a matrix.
        enough: a norm at which to look no further.
        deadline: of `time.monotonic()`: no call is begun that would be late if it took as long as the last one.
    """
    depth = np.repeat(np.arange(len(layers), 0, -1), layers)
    largest = np.concatenate([np.zeros(0), *(np.full(len(part), part.max(initial=0.0)) for part in _split(t, layers))])
    largest = np.where(largest > 0, largest, 1.0)
    best: tuple[Array, float] | None = None
    longest = 0.0
    for step in _STEPS:
        better, values = False, []
        for floor in _FLOORS:
            began = time.monotonic()
            if began + longest > deadline:
                return best
            candidate = np.maximum(t, np.maximum(floor * largest, _LEAST)) * (1 + step) ** depth
            value = norm(candidate)
            longest = max(longest, time.monotonic() - began)
            values.append(value)
            if value < (np.inf if best is None else best[1]):
                best, better = (candidate, value), True
            if value <= enough:
                return best
        if best is not None and not better and values[0] < np.inf:
            break  # enlarging further only loosens
    return best


def _split(t: Array, layers: Sequence[int]) -> list[Array]:
    return np.split(t, np.cumsum(layers)[:-1]) if len(layers) else []
