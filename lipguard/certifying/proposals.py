"""What was proposed for a block so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipguard.certifying.subject import Subject
from lipguard.proposing.proposal import Directions, Proposal

Array = NDArray[np.float64]
_TIED_KEY = ".channel"  # of the state of multipliers by channel


@dataclass(frozen=True, eq=False)
class Proposals:
    """Of solvers, for one block.

    Attributes:
        found: one per part, of the last round; empty where nothing was asked.
        tied: with one multiplier per channel, where both kinds are tried.
        rounds: of the power iteration.
        seconds: that they took.
    """

    found: tuple[Proposal, ...] = ()
    tied: Proposal | None = None
    rounds: int = 0
    seconds: float = 0.0

    @property
    def every(self) -> tuple[Proposal, ...]:
        """With the tied one."""
        return self.found if self.tied is None else (*self.found, self.tied)

    @property
    def value(self) -> float:
        """What the first one is worth by its solver's own idea; not a number where there is none."""
        return self.found[0].value if self.found else math.nan

    @property
    def iterations(self) -> int:
        """Of all of them."""
        return sum(proposal.iterations for proposal in self.every)

    @property
    def directions(self) -> Directions | None:
        """What multipliers can be adjusted with."""
        return next((p.directions for p in self.found if p.directions is not None), None)

    @property
    def is_interrupted(self) -> bool:
        """Whether Ctrl-C ended one of them."""
        return any(is_interrupted(proposal) for proposal in self.found)

    @property
    def ends(self) -> tuple[str, ...]:
        """How they ended, in words: those that failed, if any did, or else all."""
        failed = [proposal for proposal in self.found if proposal.multipliers is None]
        return tuple(dict.fromkeys(str(proposal.status) for proposal in failed or self.found))

    def state(self, subject: Subject) -> dict[str, Mapping[str, Array]]:
        """What the next solve of each part starts from: this one's end, or where there was none, the one before's."""
        keys = [subject.key(j) for j in range(len(subject.parts))]
        kept = {key: subject.earlier[key] for key in keys if key in subject.earlier}
        left = {key: p.state for key, p in zip(keys, self.found, strict=False) if p.state}
        if self.tied is not None and self.tied.state:
            left[tied_key(subject)] = self.tied.state
        return kept | left


def tied_key(subject: Subject) -> str:
    """Of multipliers by channel in a warm start."""
    return subject.key(0) + _TIED_KEY


def is_interrupted(proposal: Proposal) -> bool:
    """Whether Ctrl-C ended it."""
    return proposal.status.is_interrupted


def is_out_of_time(proposal: Proposal) -> bool:
    """Whether time ended it, with something to show."""
    return proposal.status.is_inaccurate and proposal.status.has_no_time
