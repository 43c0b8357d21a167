"""What the docs name is there: files of the project, and names in files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks.reporting.imports import ROOT, SOURCES

PROJECT = ROOT.parent
PAGES = sorted((PROJECT / "docs").glob("*.md"))
STEMS = {stem: [path for path in SOURCES if path.stem == stem] for stem in (path.stem for path in SOURCES)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)  # examples make files of their own
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|toml|md|yaml))`", text))
    known = [
        str(path.relative_to(PROJECT))
        for path in PROJECT.rglob("*.*")
        if path.suffix in (".py", ".toml", ".md", ".yaml")
    ]
    missing = {name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in known)}
    assert not missing


def test_names_of_the_code_in_the_page_of_error_terms_are_there() -> None:
    """`dense.is_scalar_form`, `ScaledForm.underflow`: a name in a file, or in a class."""
    text = (PROJECT / "docs" / "soundness.md").read_text()
    sources = "\n".join(path.read_text() for path in SOURCES)
    found = 0
    for owner, name in re.findall(r"`(\w+)\.(_?[a-z_]+)`", text):
        if owner in STEMS:
            found += 1
            assert any(re.search(rf"\b{name}\b", path.read_text()) for path in STEMS[owner]), f"{owner}.{name}"
        elif owner[0].isupper():
            found += 1
            assert re.search(rf"class {owner}\b.*?\bdef {name}\b", sources, flags=re.DOTALL), f"{owner}.{name}"
    assert found > 10


def test_words_of_the_glossary_are_where_it_says() -> None:
    """A place, which is a file or a folder, and names that occur in it."""
    rows = re.findall(r"^\| .* \| .* \| (.*) \|$", (PROJECT / "docs" / "glossary.md").read_text(), flags=re.MULTILINE)
    found = [re.findall(r"`([^`]+)`", row) for row in rows if "`" in row]
    assert len(found) > 50
    for *names, place in found:
        path = ROOT / place
        assert path.exists(), place
        text = "\n".join(own.read_text() for own in (path.rglob("*.py") if path.is_dir() else [path]))
        missing = [name for name in names if not re.search(rf"\b{name}\b", text)]
        assert not missing, f"{missing} not in {place}"
