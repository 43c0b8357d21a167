"""Options of the power iteration."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PowerOptions:
    """How the iteration runs.

    Args:
        vectors: components `k` of every scalar, at first. Where the end has no rank to spare, they are doubled.
        tolerance: relative change of the value, over ten steps (five from a known state), at which it stops.
        max_iterations: steps at most.
        widening: the slopes are taken a little wider, so that multipliers of an unconverged tail are feasible for the
            true ones: the interval whose quadratic is (1 - widening) b^2 - (alpha + beta) a b + alpha beta a^2.
        seed: of the start.
        max_seconds: time after which it stops where it is, or None.
        tied: one multiplier per channel, instead of one per neuron.
        most_vectors: that they may grow to.
        stir: noise, relative to the vectors, that a known state gets: of other weights, where it is to find what it
            had no use for before.
        dtype: of the passes. What float32 cannot hold is done in float64.
        device: where the passes run.
    """

    vectors: int = 8
    tolerance: float = 1e-6
    max_iterations: int = 500
    widening: float = 1e-5
    seed: int = 0
    max_seconds: float | None = None
    tied: bool = False
    most_vectors: int = 64
    stir: float = 0.0
    dtype: torch.dtype = torch.float64
    device: torch.device | str = "cpu"
