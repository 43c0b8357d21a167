"""Multipliers that are nearly feasible, made feasible: of an inaccurate solver, or of another epoch's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_STEPS = (0.0, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
_SMALLEST = 1e-9  # of the largest in its layer: no multiplier is exactly zero, or its neuron would be free


def repaired(t: Array, layers: Sequence[int], norm: Callable[[Array], float]) -> Array | None:
    """The best of a few enlargements of `t`.

    Growing every layer's multipliers by a factor more than those behind it keeps or restores feasibility, for the
    neurons of a layer must outweigh what the next one reads of them.

    Args:
        t: proposed multipliers, non-negative, in order of layers.
        layers: number of neurons of each layer, in order of execution.
        norm: what a form for given multipliers is worth; infinite where there is none.
    """
    depth = np.repeat(np.arange(len(layers), 0, -1), layers)
    floor = np.concatenate([np.zeros(0), *(np.full(len(part), _floor(part)) for part in _split(t, layers))])
    best, best_norm = None, np.inf
    for step in _STEPS:
        candidate = np.maximum(t, floor) * (1 + step) ** depth
        value = norm(candidate)
        if value < best_norm:
            best, best_norm = candidate, value
        elif best is not None:
            break  # enlarging further only loosens
    return best


def _split(t: Array, layers: Sequence[int]) -> list[Array]:
    return np.split(t, np.cumsum(layers)[:-1]) if len(layers) else []


def _floor(part: Array) -> float:
    return _SMALLEST * (float(part.max(initial=0.0)) or 1.0)
