"""How a proposal ended is a text that knows its parts."""

from __future__ import annotations

import copy
import pickle

import pytest

from lipguard.proposing.outcome import INTERRUPTED, NOT_FINITE, SOLVED, End, Outcome

TEXTS = {
    "solved": SOLVED,
    "interrupted": INTERRUPTED,
    "failed (not finite)": NOT_FINITE,
    "failed (no time left)": Outcome.no_time(End.FAILED),
    "inaccurate (no time left)": Outcome.no_time(End.INACCURATE),
    "inaccurate (iterations used up)": Outcome(End.INACCURATE, "iterations used up"),
}


@pytest.mark.parametrize("text", TEXTS)
def test_an_outcome_is_its_text_and_says_what_it_is(text: str) -> None:
    outcome = TEXTS[text]
    assert outcome == text == f"{outcome}"
    assert outcome.is_interrupted == (text == "interrupted")
    assert outcome.is_inaccurate == text.startswith("inaccurate")
    assert outcome.is_failed == text.startswith("failed")
    assert outcome.has_no_time == ("no time left" in text)


@pytest.mark.parametrize("text", TEXTS)
def test_it_comes_back_from_another_process_with_its_parts(text: str) -> None:
    outcome = TEXTS[text]
    for again in (pickle.loads(pickle.dumps(outcome)), copy.deepcopy(outcome)):
        assert isinstance(again, Outcome)
        assert (again, again.end, again.reason) == (outcome, outcome.end, outcome.reason)


@pytest.mark.parametrize(
    ("end", "reason"), [(End.FAILED, ""), (End.INACCURATE, ""), (End.SOLVED, "well"), (End.INTERRUPTED, "twice")]
)
def test_reasons_are_given_where_there_are_any(end: End, reason: str) -> None:
    with pytest.raises(ValueError, match="reason"):
        Outcome(end, reason)
