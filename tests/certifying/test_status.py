"""A status is its text, and knows its parts."""

from __future__ import annotations

import copy
import doctest
import io
import pickle

import pytest
import torch

from lipguard.certifying import status
from lipguard.certifying.status import Outcome, Status

TEXTS = [
    (Status(Outcome.COMPLETE), "complete"),
    (Status(Outcome.REUSED), "reused"),
    (
        Status(Outcome.REUSED, "product of norms for block 1: no proof"),
        "reused (product of norms for block 1: no proof)",
    ),
    (Status(Outcome.NOT_SOLVED, "product of norms"), "not solved (product of norms)"),
    (Status(Outcome.INTERRUPTED), "interrupted"),
    (Status(Outcome.INTERRUPTED, "block 0: late"), "interrupted: block 0: late"),
    (Status(Outcome.FALLBACK, "block 0: no proof"), "fallback: block 0: no proof"),
    (Status(Outcome.FAILED, "MemoryError: full"), "failed: MemoryError: full"),
]


@pytest.mark.parametrize(("value", "text"), TEXTS, ids=[text for _, text in TEXTS])
def test_the_text(value: Status, text: str) -> None:
    assert value == text == f"{value}"
    assert hash(value) == hash(text)
    assert type(str(value)) is str


@pytest.mark.parametrize("value", [value for value, _ in TEXTS], ids=str)
def test_it_travels(value: Status) -> None:
    for again in (pickle.loads(pickle.dumps(value)), copy.deepcopy(value)):
        assert type(again) is Status
        assert (again, again.outcome, again.reason) == (value, value.outcome, value.reason)


@pytest.mark.parametrize("value", [value for value, _ in TEXTS], ids=str)
def test_it_is_what_it_says(value: Status) -> None:
    said = {"complete": value.is_complete, "interrupted": value.is_interrupted}
    said |= {"fallback": value.is_fallback, "failed": value.is_failed}
    assert [word for word, holds in said.items() if holds] == [word for word in said if value.startswith(word)]


def test_its_plain_text_is_loaded_as_weights_are() -> None:
    stream = io.BytesIO()
    torch.save({"status": str(Status(Outcome.COMPLETE))}, stream)
    stream.seek(0)
    assert torch.load(stream, weights_only=True) == {"status": "complete"}


@pytest.mark.parametrize("outcome", [Outcome.FALLBACK, Outcome.FAILED])
def test_what_was_lost_has_a_reason(outcome: Outcome) -> None:
    with pytest.raises(ValueError, match=f"the reason of a {outcome.value}"):
        Status(outcome)


def test_the_docstring_runs() -> None:
    result = doctest.testmod(status)
    assert (result.attempted, result.failed) == (2, 0)
