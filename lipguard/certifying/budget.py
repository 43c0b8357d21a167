"""What a certification may take: a deadline, memory, and where it runs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from lipguard.config import DCPConfig
from lipguard.planning.memory import usable_memory
from lipguard.planning.search import search_deadline
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.proofs.randomised import VECTORS

FEWEST_VECTORS = 100  # that go through the matrix in a randomised proof, about
_GRACE = 1.5  # seconds for small proofs after the deadline, at which solvers in other processes are given up


@dataclass(frozen=True)
class Budget:
    """What there is to spend. Clocks run; the value does not change.

    Attributes:
        config: `max_seconds` and `max_memory` decide.
        start: when the certification began, of `time.monotonic()`.
        deadline: when the result has to be there; infinite where time does not count.
        device: where passes through the network run.
    """

    config: DCPConfig
    start: float
    deadline: float
    device: torch.device | str = "cpu"

    @classmethod
    def of(
        cls, config: DCPConfig, start: float, deadline: float | None = None, device: torch.device | str = "cpu"
    ) -> Budget:
        """By default its deadline is `max_seconds` after the start."""
        if deadline is None:
            deadline = math.inf if config.max_seconds is None else start + config.max_seconds
        return cls(config, start, deadline, device)

    @property
    def is_limited(self) -> bool:
        """Whether time counts."""
        return self.deadline < math.inf

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    @property
    def left(self) -> float:
        """Seconds until the deadline; none after it."""
        return max(self.deadline - time.monotonic(), 0.0)

    @property
    def memory(self) -> float:
        """Bytes that may be taken now."""
        return usable_memory(self.config)

    @property
    def end_of_search(self) -> float:
        """When the search for a plan is to end, of `time.monotonic()`."""
        return search_deadline(self.config, self.start, self.deadline)

    def within(self, share: float) -> float:
        """When a share of the time that is left is over, of `time.monotonic()`."""
        now = time.monotonic()
        return now + share * max(self.deadline - now, 0.0)

    def is_over(self, ahead: float = 0.0) -> bool:
        """Whether the deadline is, or will be in so many seconds."""
        return time.monotonic() + ahead > self.deadline

    def end_of_proofs(self, small: bool) -> float:
        """When proofs give up: small ones may come a little late, for what was solved is not to be lost."""
        return self.deadline + (_GRACE if small else 0.0)

    def are_proofs_over(self, small: bool) -> bool:
        """Whether they are to give up."""
        return time.monotonic() > self.end_of_proofs(small)

    def seconds_per_vector(self, form: ScaledForm) -> float:
        """What a vector takes through LipSDP's matrix; measured, so ask only where time counts."""
        probe = torch.ones(VECTORS[0], form.n, dtype=torch.float64, device=self.device)
        began = time.monotonic()
        form(probe[:1])
        found = time.monotonic() - began
        if FEWEST_VECTORS / (2 * len(probe)) * found > self.left:  # nor will several at once, which share the weights
            return found
        found = math.inf
        for _ in range(2):  # the first time takes longer
            began = time.monotonic()
            form(probe)
            found = min(found, time.monotonic() - began)
            if found > 0.02 * self.left:
                break
        return found / len(probe)
