"""The list of planted errors names code and tests that are there; whether they are caught takes half an hour."""

from pathlib import Path

import pytest
from soundness.mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("file", sorted({mutation.file for mutation in MUTATIONS}))
def test_planted_errors_change_code_that_is_there(file: str) -> None:
    text = (ROOT / "lipguard" / file).read_text()
    for mutation in (m for m in MUTATIONS if m.file == file):
        assert mutation.old in text, mutation
        assert mutation.old != mutation.new, mutation


def _tests() -> set[Path]:
    def names(mutation: Mutation) -> list[str]:
        return [word.partition("::")[0] for word in mutation.tests.split() if not word.startswith("-")]

    return {ROOT / "tests" / name for mutation in MUTATIONS for name in names(mutation)}


def test_planted_errors_are_looked_for_by_tests_that_are_there() -> None:
    assert _tests() == {path for path in _tests() if path.exists()}
