"""Where to cut a network whose LMI is too large to be proved at once, and what to tile between the cuts.

A cut hands a diagonal form on instead of a full one (`cut_behind`), whose entries are optimised with all other
multipliers, and LipSDP's matrix falls into blocks that are factored one after the other; so it does in tiles
(`lipguard.trusted.network.unfolding`). What a segment between two cuts takes is known from the architecture. What a
cut, or a grid of tiles, loses is seen by the value of the relaxation, before anything is proved; the losses of several
add up, nearly, on the networks that we have tried.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lipguard.trusted.layers import Activation
from lipguard.trusted.network.cutting import cut_behind, subnetwork
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.unfolding import WHOLE, Grid, most_tiles, unfolded
from lipguard.trusted.proofs.order import NoOrderError

TYPICAL_LOSS = 0.1  # of a cut, relative
_LOSS_OF_TILES = (
    0.003  # of cutting a segment in two, relative; less than is typical, so that what is chosen is measured
)
_MOST_MEASURED = 8
_PRICES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.1)  # of a second, in logarithms of the bound
_MOST_TILES = 64
_FINER = 3  # grids beyond the coarsest that fits, which may take less time, where that counts
_GRIDS = sorted(
    ((r, c) for r in (1, 2, 3, 4, 6, 8) for c in (1, 2, 3, 4, 6, 8) if 1 <= r * c <= _MOST_TILES and c <= r <= 2 * c),
    key=lambda grid: (grid[0] * grid[1], grid),
)


@dataclass(frozen=True)
class Segment:
    """What is between two cuts: its ends, its tiles per axis, and the seconds that its proof takes."""

    start: int
    stop: int
    seconds: float
    grid: Grid = WHOLE


@dataclass(frozen=True)
class Cuts:
    """Where a network is cut, with the tiles of what is between, and what is lost, in logarithms."""

    behind: tuple[int, ...]
    grids: tuple[Grid, ...]
    loss: float

    def apply(self, network: Network) -> Network:
        """The network, cut and in tiles."""
        own = cut_behind(network, self.behind) if self.behind else network
        return unfolded(own, dict(enumerate(self.grids)))


def candidates(network: Network) -> list[int]:
    """Nodes to cut behind: activations that every path passes."""
    last = len(network.nodes) - 1
    return [i for i in network.separators if isinstance(network.nodes[i].layer, Activation) and i != last]


def segments(
    network: Network, seconds: Callable[[Network], float | None], factors: Grid | None = None, hurried: bool = False
) -> list[Segment]:
    """All segments between two candidates, or ends of the network, that fit, if need be in tiles.

    Args:
        network: the network.
        seconds: of a segment's proof; None where it does not fit, and then a longer one does not either. A
            `NoOrderError` ends the search: what was found before is returned.
        factors: tiles per axis of what does not fit, instead of a search.
        hurried: whether time is limited: then finer tiles that take less of it are looked for, too.
    """
    ends = [0, *candidates(network), len(network.nodes) - 1]
    found: list[Segment] = []
    for position, start in enumerate(ends):
        grids = [WHOLE, *([factors] if factors else _GRIDS[1:])]
        for stop in ends[position + 1 :]:
            try:
                fitting = _fitting(subnetwork(network, start, stop), grids, seconds, _FINER if hurried else 0)
            except NoOrderError:
                return found
            if not fitting:
                break
            found += [Segment(start, stop, needed, grid) for grid, needed in fitting]
            grids = grids[grids.index(fitting[0][0]) :]  # a longer one does not fit into larger tiles
    return found


def _fitting(
    part: Network, grids: Sequence[Grid], seconds: Callable[[Network], float | None], finer: int
) -> list[tuple[Grid, float]]:
    """The coarsest grid that fits, with its seconds; and some finer ones that take less."""
    found: list[tuple[Grid, float]] = []
    most = most_tiles(part)
    tried = 0
    for grid in grids:
        if grid[0] > most[0] or grid[1] > most[1]:
            continue
        try:
            needed = seconds(unfolded(part, {0: grid}))
        except ValueError:  # a tile that reads nothing
            continue
        if needed is not None and (not found or needed < 0.7 * found[-1][1]):
            found.append((grid, needed))
        tried += bool(found)
        if tried > finer or (grid == WHOLE and found):
            break
    return found


def losses(network: Network, places: Sequence[int], value: Callable[[Network], float] | None) -> dict[int, float]:
    """By how much the bound grows with each of some cuts, in logarithms.

    Args:
        network: the network.
        places: nodes to cut behind.
        value: of the relaxation of a network; None where it may not be asked for.
    """
    whole = math.nan if value is None else value(network)
    return {
        i: math.log1p(TYPICAL_LOSS) if value is None else _loss(value(cut_behind(network, [i])), whole, TYPICAL_LOSS)
        for i in places
    }


def _loss(value: float, whole: float, otherwise: float) -> float:
    ratio = value / whole if whole > 0 else math.nan
    return math.log(max(ratio, 1.0)) if math.isfinite(ratio) and ratio > 0 else math.log1p(otherwise)


def chosen_cuts(
    network: Network, found: Sequence[Segment], value: Callable[[Network], float] | None, budget: float
) -> Cuts | None:
    """The cuts and tiles of least loss that take at most `budget` seconds; None where nothing does.

    Cuts are all measured beforehand; of tiles, which lose less, those that are about to be chosen. A `value` that is
    not a number, as where there was no time for it, leaves the typical loss.
    """
    if best_cuts(network, found, {}, budget) is None:
        return None
    lost = losses(network, candidates(network), value)
    tiles: dict[Segment, float] = {}
    for _ in range(_MOST_MEASURED if value else 1):
        best = best_cuts(network, found, lost, budget, tiles)
        if best is None or value is None:
            break
        unknown = [segment for segment in _path(best, network) if segment.grid != WHOLE and segment not in tiles]
        if not unknown:
            break
        for segment in unknown:
            ends = tuple(i for i in (segment.start, segment.stop) if i in lost)
            grids = [WHOLE] * (len(ends) + 1)
            grids[0 if segment.start == 0 else 1] = segment.grid
            without, within = Cuts(ends, (WHOLE,) * len(grids), 0.0), Cuts(ends, tuple(grids), 0.0)
            tiles[segment] = _loss(value(within.apply(network)), value(without.apply(network)), _LOSS_OF_TILES)
    return best


def _path(best: Cuts, network: Network) -> list[Segment]:
    """The segments between the cuts, without their time."""
    ends = [0, *best.behind, len(network.nodes) - 1]
    return [Segment(a, b, 0.0, grid) for a, b, grid in zip(ends, ends[1:], best.grids, strict=False)]


def best_cuts(
    network: Network, found: Sequence[Segment], lost: dict[int, float], budget: float,
    tiles: dict[Segment, float] | None = None,
) -> Cuts | None:  # fmt: skip
    """What loses least and takes at most `budget` seconds; None where nothing does.

    Args:
        network: the network.
        found: its segments that fit.
        lost: by cut; 0 where it is not known.
        budget: seconds for the proofs of all segments.
        tiles: what tiles lose, by segment with its time left out; a little where it is not known.
    """
    last = len(network.nodes) - 1
    for price in _PRICES:
        best: dict[int, tuple[float, float, Cuts]] = {0: (0.0, 0.0, Cuts((), (), 0.0))}
        for segment in sorted(found, key=lambda segment: segment.stop):
            if segment.start not in best:
                continue
            _, seconds, so_far = best[segment.start]
            seconds += segment.seconds
            loss = so_far.loss + lost.get(segment.start, 0.0)
            if segment.grid != WHOLE:
                guess = _LOSS_OF_TILES * math.log2(math.prod(segment.grid))
                loss += (tiles or {}).get(dataclasses.replace(segment, seconds=0.0), guess)
            behind = (*so_far.behind, segment.start) if segment.start else so_far.behind
            entry = (round(loss + price * seconds, 9), seconds, Cuts(behind, (*so_far.grids, segment.grid), loss))
            if segment.stop not in best or entry[:2] < best[segment.stop][:2]:
                best[segment.stop] = entry
        if last not in best:
            return None
        _, seconds, cuts = best[last]
        if seconds <= budget:
            return cuts
    return None
