"""The picture and the tables of docs/architecture.md."""

from __future__ import annotations

from .imports import Arrows, arrows, levels, reduced, summary
from .markdown import markdown


def tables() -> dict[str, str]:
    """By the name of a marker in the page."""
    return {
        "Picture": _picture(arrows()),
        "Folders": _table(""),
        "Trusted picture": _picture(arrows("trusted")),
        "Trusted folders": _table("trusted"),
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
