"""Where the search for a lower bound begins: many points at many scales, and what lies near and between the best.

The Jacobian of a network of ReLUs is constant on polyhedra, of which most are small and close to the kinks of the first
biases, or lie far out. Ascent by gradients does not see from one to the next; sampling does, and is cheap: what a point
is worth takes a few passes, all points at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]

POINTS, _FOUND = 16, 8  # that ascent starts from: at random, and of those that are found
_MOST, _FEWEST = 1024, 48  # points of a round
_ROUNDS, _LEAST_ROUNDS = 12, 4  # fewer find little that ascent does not
_PARENTS = 32  # the points that the next round is made of
_PASSES = 6  # that the value of a point counts as
_SCALES = (-2.0, 3.0)  # powers of ten, in the spread of the data
_DISTANCES = (-3.0, 1.0)  # from a point to those tried near it, in its own size
_BETWEEN, _BEYOND = 0.7, 0.5  # the share of points on lines through two, and how far outside of them
_DISTINCT = 1e-4  # relative difference of values that shows another polyhedron


def random_points(shape: tuple[int, ...], data: Tensor | None, seed: int, jitter: float) -> Tensor:
    """Points near some samples, and at random, shape (points, *shape); standard normal ones without samples."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(POINTS, *shape, generator=generator, dtype=torch.float64)
    if data is None or not len(data):
        return noise
    start = data.detach()[:POINTS].to("cpu", torch.float64)
    if start.shape[1:] != shape or not torch.isfinite(start).all():
        return noise
    spread = float(start.std(correction=0)) or 1.0
    return torch.cat([start + jitter * spread * noise[: len(start)], spread * noise[: max(POINTS - len(start), 4)]])


def promising(score: Score, start: Tensor, entries: float, seed: int, work: float, deadline: float) -> Tensor:
    """The best points that are found in so much work, best first, and better than those that were known.

    Args:
        score: what points are worth, shape (points,).
        start: points that are known, shape (points, *shape).
        entries: of a pass, for one point, and what takes as long.
        seed: of the points that are tried.
        work: entries to compute, over all points and passes; where that is too little for a search there is none.
        deadline: of `time.monotonic()`, which ends it.
    """
    affordable = int(work / (_PASSES * entries))
    rounds = min(_ROUNDS, affordable // _FEWEST)
    if rounds < _LEAST_ROUNDS:
        return start[:0]
    count = min(_MOST, affordable // rounds)
    generator = torch.Generator().manual_seed(seed)
    known = worth = _worth(score, start)
    tried, fresh = start, _scattered(start, count, generator)
    for k in range(rounds):
        began = time.monotonic()
        tried, worth = _best(torch.cat([tried, fresh]), torch.cat([worth, _worth(score, fresh)]))
        if k + 1 == rounds or 2 * time.monotonic() - began > deadline:
            break
        fresh = _near(tried, count, generator)
    return tried[worth > known.max()][:_FOUND]


def _worth(score: Score, x: Tensor) -> Tensor:
    return score(x).nan_to_num(0.0, posinf=0.0)


def _best(x: Tensor, worth: Tensor) -> tuple[Tensor, Tensor]:
    """The best points that differ, with what they are worth."""
    order = worth.argsort(descending=True, stable=True)
    x, worth = x[order], worth[order]
    distinct = torch.ones(len(worth), dtype=torch.bool)
    distinct[1:] = worth[1:] < worth[:-1] * (1 - _DISTINCT)
    return x[distinct][:_PARENTS], worth[distinct][:_PARENTS]


def _powers(count: int, like: Tensor, ends: tuple[float, float], generator: torch.Generator) -> Tensor:
    exponents = ends[0] + (ends[1] - ends[0]) * torch.rand(count, generator=generator, dtype=torch.float64)
    return 10 ** exponents.reshape(-1, *(1 for _ in like.shape[1:]))


def _noise(count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(count, *like.shape[1:], generator=generator, dtype=torch.float64)


def _scattered(start: Tensor, count: int, generator: torch.Generator) -> Tensor:
    spread = float(start.std(correction=0)) or 1.0
    return spread * _powers(count, start, _SCALES, generator) * _noise(count, start, generator)


def _near(parents: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Points around the parents, and around points on the lines through two of them."""

    def drawn() -> Tensor:
        return parents[torch.randint(len(parents), (count,), generator=generator)]

    def share() -> Tensor:
        return torch.rand(count, *(1 for _ in parents.shape[1:]), generator=generator, dtype=torch.float64)

    one, other = drawn(), drawn()
    size = one.square().flatten(1).mean(1).sqrt().reshape(share().shape)
    along = (1 + 2 * _BEYOND) * share() - _BEYOND
    centre = torch.where(share() < _BETWEEN, one + along * (other - one), one)
    return centre + size * _powers(count, parents, _DISTANCES, generator) * _noise(count, parents, generator)
