"""Tables of Markdown: at once, row by row as they are measured, or in a page."""

from __future__ import annotations

import re
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


def filled(page: str, tables: dict[str, str]) -> str:
    """The page with every table between its markers, `<!-- table: NAME -->` and `<!-- end -->`."""

    def fill(found: re.Match[str]) -> str:
        name = found.group(1)
        return f"<!-- table: {name} -->\n\n{tables[name]}\n\n<!-- end -->" if name in tables else found.group(0)

    return re.sub(r"<!-- table: ([^>]+) -->.*?<!-- end -->", fill, page, flags=re.DOTALL)
