"""Multipliers that are nearly feasible, made feasible: of an inaccurate solver, or of another epoch's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_STEPS = (0.0, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
# Of the largest in its layer. A multiplier of zero frees its neuron; a little too small costs more than too large.
_FLOORS = (1e-9, 1e-5, 1e-3)


def repaired(
    t: Array, layers: Sequence[int], norm: Callable[[Array], float], enough: float = 0.0
) -> tuple[Array, float] | None:
    """The best of a few enlargements of `t`, with its norm; None where no form exists for any of them.

    Multipliers that are too small for their layer are raised to a floor. Growing every layer's by a factor more than
    those behind it keeps or restores feasibility, for a layer must outweigh what the next one reads of it.

    Args:
        t: proposed multipliers, non-negative, in order of layers.
        layers: number of neurons of each layer, in order of execution.
        norm: what a form for given multipliers is worth; infinite where there is none. Each call factors a matrix.
        enough: a norm at which to look no further.
    """
    depth = np.repeat(np.arange(len(layers), 0, -1), layers)
    largest = np.concatenate([np.zeros(0), *(np.full(len(part), part.max(initial=0.0)) for part in _split(t, layers))])
    largest = np.where(largest > 0, largest, 1.0)
    best: tuple[Array, float] | None = None
    for step in _STEPS:
        better = False
        for floor in _FLOORS:
            candidate = np.maximum(t, floor * largest) * (1 + step) ** depth
            value = norm(candidate)
            if value < (np.inf if best is None else best[1]):
                best, better = (candidate, value), True
            if value <= enough:
                return best
        if best is not None and not better:
            break  # enlarging further only loosens
    return best


def _split(t: Array, layers: Sequence[int]) -> list[Array]:
    return np.split(t, np.cumsum(layers)[:-1]) if len(layers) else []
