"""What a run came to, from its rows alone: as text, or in docs/benchmarks.md and README.md with the figures there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..measuring.rows import LARGE, PATIENCE, Row
from . import cells
from .figures import anytime, epochs, overview, sizes
from .markdown import filled
from .verdicts import devices, exponents, over_epochs, too_small, verdicts


def text(results: dict[str, Any]) -> str:
    """Every table there are rows for."""
    parts = [_about(results["about"]), *(f"**{title}**\n\n{table}" for title, table in _tables(results).items())]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in results["notes"])])


def write(results: dict[str, Any], root: Path) -> None:
    """Tables between the markers of docs/benchmarks.md and README.md, figures beside them."""
    rows = _on_cpu(results)
    tables = _tables(results) | {"About": _about(results["about"]), "Field": cells.field(rows)}
    for page in (root / "docs" / "benchmarks.md", root / "README.md"):
        page.write_text(filled(page.read_text(), tables))
    for name, draw in (("benchmarks", overview), ("anytime", anytime), ("sizes", sizes), ("epochs", epochs)):
        figure = draw(rows)
        if figure is not None:
            figure.savefig(root / "docs" / f"{name}.png", dpi=150)


def _about(about: dict[str, Any]) -> str:
    return (
        f"{about['machine']}, {about['threads']} threads, torch {about['torch']}, at most {about['limit']:g} s per "
        f"method, {about['limit'] * PATIENCE:g} s on more than {LARGE:,} neurons."
    )


def _on_cpu(results: dict[str, Any]) -> list[Row]:
    return [row for row in results["rows"] if row["device"] == "cpu"]


def _tables(results: dict[str, Any]) -> dict[str, str]:
    """By the name of the marker in a page, those that there are rows for."""
    rows = _on_cpu(results)
    found: dict[str, str] = {}
    table = [row for row in rows if row["part"] == "table"]
    if table:
        found |= {
            "Bound": cells.grid(table, cells.bound),
            "Ratio to the lower bound": cells.grid(table, cells.ratio),
            "Seconds": cells.grid(table, cells.seconds),
            "Peak memory, MB": cells.grid(table, cells.memory),
            "Verdict": "\n".join(f"- {line}" for line in verdicts(table)),
        }
    if any(row["part"] in ("table", "sizes") for row in rows):
        found["False"] = "\n".join(f"- {line}" for line in too_small(rows)) or "- None."
    if any(row["part"] == "sizes" for row in rows):
        found["Exponents"] = exponents([row for row in rows if row["part"] == "sizes"])
    if any(row["part"] == "epochs" and row["status"] == "done" for row in rows):
        found["Epochs"] = over_epochs(next(row for row in rows if row["part"] == "epochs"))
    other = [row for row in results["rows"] if row["device"] != "cpu" and row["part"] == "table"]
    if other:
        found["Other devices"] = devices(other, table)
    return found
