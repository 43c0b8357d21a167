"""Where to cut a network whose LMI is too large to be proved at once.

A cut hands a diagonal form on instead of a full one (`Network.cut`), whose entries are optimised with all other
multipliers, and LipSDP's matrix falls into blocks that are factored one after the other. What a segment between two
cuts takes is known from the architecture. What a cut loses is seen by the value of the relaxation, before anything is
proved; the losses of several cuts add up, nearly, on the networks that we have tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lipguard.network.graph import Network
from lipguard.network.layers import Activation

TYPICAL_LOSS = 0.1  # of a cut, relative
_PRICES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.1)  # of a second, in logarithms of the bound


@dataclass(frozen=True)
class Segment:
    """What is between two cuts: its ends, and the seconds that its proof takes."""

    start: int
    stop: int
    seconds: float


def candidates(network: Network) -> list[int]:
    """Nodes to cut behind: activations that every path passes."""
    last = len(network.nodes) - 1
    return [i for i in network.separators if isinstance(network.nodes[i].layer, Activation) and i != last]


def segments(network: Network, seconds: Callable[[Network], float | None], budget: float = math.inf) -> list[Segment]:
    """All segments between two candidates, or ends of the network, that fit; none where the shortest take too long.

    Args:
        network: the network.
        seconds: of a segment's proof; None where it does not fit, and then a longer one does not either.
        budget: seconds for all of them.
    """
    ends = [0, *candidates(network), len(network.nodes) - 1]
    found: list[Segment] = []
    open_ends = dict(enumerate(ends))  # by position: those from which longer segments may still fit
    for length in range(1, len(ends)):
        for position in list(open_ends):
            if position + length >= len(ends):
                continue
            start, stop = ends[position], ends[position + length]
            needed = seconds(network.subnetwork(start, stop))
            if needed is None:
                del open_ends[position]
            else:
                found.append(Segment(start, stop, needed))
        if length == 1 and (len(found) < len(ends) - 1 or sum(s.seconds for s in found) > budget):
            return []  # longer ones only take longer
    return found


def losses(network: Network, places: Sequence[int], value: Callable[[Network], float] | None) -> dict[int, float]:
    """By how much the bound grows with each of some cuts, in logarithms.

    Args:
        network: the network.
        places: nodes to cut behind.
        value: of the relaxation of a network; None where it may not be asked for.
    """
    whole = math.nan if value is None else value(network)
    found = {}
    for i in places:
        ratio = math.nan if value is None or not whole > 0 else value(network.cut([i])) / whole
        found[i] = math.log(max(ratio, 1.0)) if math.isfinite(ratio) and ratio > 0 else math.log1p(TYPICAL_LOSS)
    return found


def best_cuts(
    network: Network, found: Sequence[Segment], lost: dict[int, float], budget: float
) -> tuple[tuple[int, ...], float] | None:
    """(cuts, what they lose in logarithms): the least that takes at most `budget` seconds; None where nothing does.

    Args:
        network: the network.
        found: its segments that fit.
        lost: by cut.
        budget: seconds for the proofs of all segments.
    """
    last = len(network.nodes) - 1
    for price in _PRICES:
        best: dict[int, tuple[float, float, float, tuple[int, ...]]] = {0: (0.0, 0.0, 0.0, ())}
        for segment in sorted(found, key=lambda segment: segment.stop):
            if segment.start not in best:
                continue
            _, seconds, loss, cuts = best[segment.start]
            seconds += segment.seconds
            if segment.start:
                loss, cuts = loss + lost[segment.start], (*cuts, segment.start)
            entry = (round(loss + price * seconds, 9), seconds, loss, cuts)
            if segment.stop not in best or entry < best[segment.stop]:
                best[segment.stop] = entry
        if last not in best:
            return None
        _, seconds, loss, cuts = best[last]
        if seconds <= budget:
            return cuts, loss
    return None
