"""The picture and the tables of docs/architecture.md, and the list of what is trusted in docs/soundness.md."""

from __future__ import annotations

import functools

from .imports import ROOT, SOURCES, Arrows, arrows, levels, reduced, summary
from .markdown import markdown


@functools.cache
def pages() -> dict[str, dict[str, str]]:
    """By page of the docs, and by the name of a marker in the page."""
    return {
        "architecture.md": {
            "Picture": _picture(arrows()),
            "Folders": _table(""),
            "Trusted picture": _picture(arrows("trusted")),
            "Trusted folders": _table("trusted"),
        },
        "soundness.md": {"Trusted files": _files("trusted")},
    }


def _picture(graph: Arrows) -> str:
    """A flow chart of Mermaid; an arrow that a longer way says, too, is left out."""
    ordered = [name for level in levels(graph) for name in level]
    lines = [f"    {name} --> {other}" for name in ordered for other in sorted(reduced(graph)[name])]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


def _table(folder: str) -> str:
    """A row per part, the outermost first: what it is, and all that it imports beside it."""
    graph = arrows(folder)
    rows = [
        (f"`{name}`", summary(folder, name), ", ".join(f"`{other}`" for other in sorted(graph[name])) or "-")
        for level in levels(graph)
        for name in level
    ]
    return markdown([("part", "what it is", "imports"), *rows])


def _files(folder: str) -> str:
    """A row per file: what it does."""
    paths = sorted(path.relative_to(ROOT) for path in SOURCES if path.is_relative_to(ROOT / folder))
    return markdown(
        [("file", "what it does"), *((f"`{path}`", summary(*path.parts[:-1], path.name)) for path in paths)]
    )
