"""Tables of Markdown, at once or row by row as they are measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table of Markdown; its first line is the head."""
    head, *rest = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rest])


def print_head(header: Sequence[str]) -> None:
    """The first two lines of a table."""
    print(markdown([header]), flush=True)


def print_row(cells: Iterable[str]) -> None:
    """A line of a table, seen at once."""
    print("|", " | ".join(cells), "|", flush=True)
