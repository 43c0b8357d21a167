"""What a monitor knows so far, and what a checkpoint keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lipguard.callbacks.messages import Messages
from lipguard.callbacks.observed import Inputs
from lipguard.callbacks.rows import Row
from lipguard.certifying.report import Report
from lipguard.certifying.warm_start import WarmStart
from lipguard.errors import CertificateError


@dataclass
class Last:
    """What was measured last.

    Attributes:
        fingerprint: of the weights that the last row is about; empty where there is none.
        solved: whether that row is a full solve, not a re-evaluation.
        batch: the training batch after which it was computed.
        logged: whether this fit has logged anything yet.
    """

    fingerprint: str = ""
    solved: bool = False
    batch: int = -1
    logged: bool = False


@dataclass
class Record:
    """What is known so far.

    Attributes:
        history: one row per measurement.
        report: of the last successful one.
        warm_start: what the next one starts from.
        last: what was measured last.
    """

    history: list[Row] = field(default_factory=list)
    report: Report | None = None
    warm_start: WarmStart | None = None
    last: Last = field(default_factory=Last)

    def begin(self) -> None:
        """A fit begins: nothing of it is logged."""
        self.last.logged, self.last.batch = False, -1

    def learn(self, report: Report) -> None:
        """It is where the next certification starts from."""
        self.report, self.warm_start = report, report.warm_start

    def knows(self, fingerprint: str) -> bool:
        """Whether the weights with this fingerprint were measured last; no one knows of weights that have none."""
        return self.last.fingerprint == fingerprint != ""

    def state(self, inputs: Inputs) -> dict[str, Any]:
        """Plain values, which load with `weights_only=True`."""
        return {
            "history": [dict(row) for row in self.history],
            "warm_start": None if self.warm_start is None else self.warm_start.to_state(),
            "input_shape": None if inputs.shape is None else list(inputs.shape),
            "fingerprint": self.last.fingerprint,
            "solved": self.last.solved,
        }

    def load(self, state: Mapping[str, Any], inputs: Inputs, messages: Messages) -> None:
        """The inverse of `state`. A warm start that cannot be read costs time, not the run."""
        self.history = [dict(row) for row in state["history"]]
        self.last.fingerprint, self.last.solved = state["fingerprint"], state["solved"]
        inputs.restore(state["input_shape"])
        try:
            stored = state["warm_start"]
            self.warm_start = None if stored is None else WarmStart.from_state(stored)
        except CertificateError as error:
            self.warm_start = None
            messages.warn(f"The certificate in the checkpoint is unusable, the next solve starts cold: {error}")
