"""How a certification ended: a value whose text is what is printed, logged and stored."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """The ends that a certification, or a measurement, may have; the value is the first word of its text."""

    COMPLETE = "complete"
    REUSED = "reused"  # nothing was optimised
    NOT_SOLVED = "not solved"  # nothing ever was
    INTERRUPTED = "interrupted"  # by Ctrl-C, with the best that was proved until then
    FALLBACK = "fallback"  # something looser took the place of what was lost
    FAILED = "failed"  # there is no bound


_IN_BRACKETS = (Outcome.REUSED, Outcome.NOT_SOLVED)  # how their reasons are written
_WITH_REASON = (Outcome.FALLBACK, Outcome.FAILED)


class Status(str):
    """A text, such as ``fallback: RuntimeError: no memory``, that knows its parts: nobody has to read it to decide.

    It compares and prints as the text. `str(status)` is a plain string, as checkpoints need it.

    Args:
        outcome: how it ended.
        reason: why, or with what; a fallback and a failure have one.

    Raises:
        ValueError: a fallback or a failure without a reason.

    Example:
        >>> status = Status(Outcome.FALLBACK, "no memory")
        >>> print(status, status.is_fallback)
        fallback: no memory True
    """

    outcome: Outcome
    reason: str

    def __new__(cls, outcome: Outcome, reason: str = "") -> Status:  # noqa: D102
        if not reason and outcome in _WITH_REASON:
            raise ValueError(f"Expected the reason of a {outcome.value}, but got none.")
        text = f"{outcome.value} ({reason})" if outcome in _IN_BRACKETS else f"{outcome.value}: {reason}"
        self = super().__new__(cls, text if reason else outcome.value)
        self.outcome, self.reason = outcome, reason
        return self

    def __reduce__(self) -> tuple[type[Status], tuple[Outcome, str]]:
        return type(self), (self.outcome, self.reason)

    @property
    def is_complete(self) -> bool:
        """Whether all was done that was asked for."""
        return self.outcome is Outcome.COMPLETE

    @property
    def is_interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return self.outcome is Outcome.INTERRUPTED

    @property
    def is_fallback(self) -> bool:
        """Whether the bound is looser than it was to be."""
        return self.outcome is Outcome.FALLBACK

    @property
    def is_failed(self) -> bool:
        """Whether there is no bound."""
        return self.outcome is Outcome.FAILED
