"""Multipliers that are nearly feasible, made feasible: of an inaccurate solver, or of another epoch's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_STEPS = (0.0, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
# Of the largest in its layer. A multiplier of zero frees its neuron; a little too small costs more than too large.
_FLOORS = (1e-9, 1e-5, 1e-3)


def repaired(t: Array, layers: Sequence[int], norm: Callable[[Array], float]) -> Array | None:
    """The best of a few enlargements of `t`.

    Multipliers that are too small for their layer are raised to a floor. Growing every layer's by a factor more than
    those behind it keeps or restores feasibility, for a layer must outweigh what the next one reads of it.

    Args:
        t: proposed multipliers, non-negative, in order of layers.
        layers: number of neurons of each layer, in order of execution.
        norm: what a form for given multipliers is worth; infinite where there is none.
    """
    depth = np.repeat(np.arange(len(layers), 0, -1), layers)
    largest = np.concatenate([np.zeros(0), *(np.full(len(part), part.max(initial=0.0)) for part in _split(t, layers))])
    best, best_norm = None, np.inf
    for step in _STEPS:
        candidates = [
            np.maximum(t, floor * np.where(largest > 0, largest, 1.0)) * (1 + step) ** depth for floor in _FLOORS
        ]
        norms = [norm(candidate) for candidate in candidates]
        if min(norms) < best_norm:
            best, best_norm = candidates[int(np.argmin(norms))], min(norms)
        elif best is not None:
            break  # enlarging further only loosens
    return best


def _split(t: Array, layers: Sequence[int]) -> list[Array]:
    return np.split(t, np.cumsum(layers)[:-1]) if len(layers) else []
