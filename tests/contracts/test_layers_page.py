"""The page of layers lists what the table reads, and what is refused: no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

from helpers.reading_examples import of_row, spelled

from lipguard.trusted.reading.refusals import REFUSED
from lipguard.trusted.reading.table import FAMILIES

PAGE = (Path(__file__).parents[2] / "docs" / "layers.md").read_text()


def listed(start: str) -> dict[str, set[str]]:
    """Of the page's lines in a section: the first column, and every name in any of them."""
    section = PAGE[PAGE.index(start) :].partition("\n\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and "`" in line]
    return {line: set(re.findall(r"`([^`]+)`", line)) for line in lines}


def test_the_page_lists_what_every_family_reads() -> None:
    found = {line.split("|")[1].strip(): names for line, names in listed("## All that is supported").items()}
    families = {family.__name__.rpartition(".")[2]: family.KINDS for family in FAMILIES}
    assert found == {
        name: {spelled(operation) for kind in kinds for operation in of_row(kind)} for name, kinds in families.items()
    }


def test_the_page_lists_what_is_refused_and_why() -> None:
    expected: dict[tuple[str, str], set[str]] = {}
    for operation, words in REFUSED.items():
        expected.setdefault(words, set()).add(spelled(operation))
    found = listed("## What is refused")
    columns = {tuple(cell.strip() for cell in line.split("|")[2:4]): names for line, names in found.items()}
    assert columns == expected
