"""The page on extending is applied to a copy of the project, block by block, and what it says to run is run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
# Of what is added, and of tests that lists are complete; the whole suites are a slow test.
NAMES = (
    "trapezoid",
    "atan",
    "arctan",
    "cumsum",
    "Cumulative",
    "L1",
    "full",
    "Comet",
    "show",
    "lists",
    "an_example",
    "docs_say",
)
IGNORED = shutil.ignore_patterns(".git", ".*_cache", "__pycache__", "*.png", "benchmarks.json")


@dataclass(frozen=True)
class Block:
    """A new file, or, with `old`, what replaces a piece of one."""

    path: str
    text: str
    old: str | None = None


@dataclass(frozen=True)
class Addition:
    """A section of the page."""

    title: str
    blocks: tuple[Block, ...]
    tests: tuple[str, ...]

    @property
    def files(self) -> set[str]:
        """All that it touches."""
        return {block.path for block in self.blocks}


def block(language: str, text: str) -> Block:
    first, rest = text.split("\n", 1)
    path = first.removeprefix("# ").removeprefix("--- ")
    if language != "diff":
        return Block(path, rest)
    old, new = ("\n".join(re.findall(rf"^\{sign}(.*)$", rest, flags=re.MULTILINE)) for sign in "-+")
    return Block(path, new, old)


def additions(page: str) -> list[Addition]:
    found = []
    for section in page.split("\n## ")[1:]:
        blocks = re.findall(r"```(python|yaml|diff)\n(.*?)```", section, flags=re.DOTALL)
        (command,) = re.findall(r"```bash\npython -m pytest (.*)\n```", section)
        title = section.split("\n")[0]
        found.append(Addition(title, tuple(block(*own) for own in blocks), tuple(command.split())))
    return found


def apply(one: Block, project: Path) -> None:
    path = project / one.path
    if one.old is None:
        assert not path.exists(), f"{one.path} is there already"
        path.write_text(one.text)
        return
    text = path.read_text()
    assert text.count(one.old) == 1, f"{one.path} has this {text.count(one.old)} times, not once:\n{one.old}"
    path.write_text(text.replace(one.old, one.text))


ADDITIONS = additions(PAGE)


def test_the_table_counts_the_files() -> None:
    rows = re.findall(r"^\| \[[^]]+\]\(#([\w-]+)\) \| (\d+) \| (\d+) \|", PAGE, flags=re.MULTILINE)
    expected = []
    for addition in ADDITIONS:
        package = {path for path in addition.files if path.startswith(("lipguard/", "configs/"))}
        anchor = addition.title.lower().replace(" ", "-")
        expected.append((anchor, str(len(package)), str(len(addition.files - package))))
    assert rows == expected


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with all additions, one after the other."""
    copy = tmp_path_factory.mktemp("extended") / "project"
    shutil.copytree(ROOT, copy, ignore=IGNORED)
    for addition in ADDITIONS:
        for one in addition.blocks:
            apply(one, copy)
    return copy


def run(project: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(project)}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_what_is_added_passes_what_the_page_says(project: Path) -> None:
    """All suites at once, of which those tests run that are about what is added."""
    words = " or ".join(NAMES)
    suites = sorted({name for addition in ADDITIONS for name in addition.tests})
    said = run(project, "pytest", "-n0", "-q", "-p", "no:cacheprovider", *suites, "-k", words)
    assert "passed" in said


def test_the_additions_are_formatted_and_typed_as_the_rest(project: Path) -> None:
    run(project, "ruff", "check", ".")
    changed = sorted(path for addition in ADDITIONS for path in addition.files if path.endswith(".py"))
    run(project, "ruff", "format", "--check", *changed)


@pytest.mark.slow
@pytest.mark.parametrize("addition", ADDITIONS, ids=lambda addition: addition.title)
def test_whole_suites_pass(project: Path, addition: Addition) -> None:
    run(project, "pytest", "-n0", "-q", "-p", "no:cacheprovider", *addition.tests)


@pytest.mark.slow
def test_types_are_those_of_the_rest(project: Path) -> None:
    run(project, "mypy")
