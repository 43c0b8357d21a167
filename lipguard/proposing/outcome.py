"""How a proposal came to its end: a value whose text is what is reported."""

from __future__ import annotations

from enum import Enum


class End(Enum):
    """The ends that a solver may come to; the value is the first word of its text."""

    SOLVED = "solved"
    INACCURATE = "inaccurate"  # stopped early, with multipliers that are worth trying
    FAILED = "failed"  # there are none
    INTERRUPTED = "interrupted"  # by Ctrl-C, where it was


_NO_TIME = "no time left"
_WITH_REASON = (End.INACCURATE, End.FAILED)


class Outcome(str):
    """A text, such as ``inaccurate (no time left)``, that knows its parts: nobody has to read it to decide.

    It compares and prints as the text.

    Args:
        end: how the solver ended.
        reason: why; what is inaccurate or failed has one.

    Raises:
        ValueError: a reason where there is none to give, or none where there is.

    Example:
        >>> outcome = Outcome(End.FAILED, "not finite")
        >>> print(outcome, outcome.is_failed)
        failed (not finite) True
    """

    end: End
    reason: str

    def __new__(cls, end: End, reason: str = "") -> Outcome:  # noqa: D102
        if bool(reason) != (end in _WITH_REASON):
            raise ValueError(f"Expected a reason of what is inaccurate or failed, but got {end.value!r}, {reason!r}.")
        self = super().__new__(cls, f"{end.value} ({reason})" if reason else end.value)
        self.end, self.reason = end, reason
        return self

    def __reduce__(self) -> tuple[type[Outcome], tuple[End, str]]:
        return type(self), (self.end, self.reason)

    @classmethod
    def no_time(cls, end: End) -> Outcome:
        """A deadline came first, before there was anything (`End.FAILED`) or later."""
        return cls(end, _NO_TIME)

    @property
    def has_no_time(self) -> bool:
        """Whether a deadline ended it."""
        return self.reason == _NO_TIME

    @property
    def is_inaccurate(self) -> bool:
        """Whether it stopped early, with multipliers that are worth trying."""
        return self.end is End.INACCURATE

    @property
    def is_failed(self) -> bool:
        """Whether there are no multipliers."""
        return self.end is End.FAILED

    @property
    def is_interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return self.end is End.INTERRUPTED


SOLVED, INTERRUPTED = Outcome(End.SOLVED), Outcome(End.INTERRUPTED)
NOT_FINITE = Outcome(End.FAILED, "not finite")
