"""Tables of a row per network and a column per method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..measuring.rows import NAMES, Row
from .markdown import markdown

TIGHT = 1.005  # times the tightest
README = ("product", "liplt", "eclipse_fast", "scs", "cold")


class Cells:
    """Rows of the table by network and method."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = {(row["network"], row["method"]): row for row in rows}
        self.networks = {row["network"]: row for row in rows}
        self.methods = [m for m in NAMES if any(row["method"] == m for row in rows)]

    def done(self, network: str) -> dict[str, Row]:
        """By method, what came to an end."""
        own = {m: self.rows[network, m] for m in self.methods if (network, m) in self.rows}
        return {m: row for m, row in own.items() if row["status"] == "done"}

    def tightest(self, network: str) -> float:
        return min((row["bound"] for m, row in self.done(network).items() if m != "lower"), default=math.nan)

    def lower(self, network: str) -> float:
        """The largest that the ascent and lipguard's own search found."""
        own = self.done(network)
        found = [row["bound"] for m, row in own.items() if m == "lower"] + [row["lower"] or 0.0 for row in own.values()]
        return max(found, default=math.nan)


def grid(rows: Sequence[Row], cell: Callable[[Cells, str, str], str]) -> str:
    """A row per network, a column per method."""
    cells = Cells(rows)
    lines = [["network", "neurons", *(NAMES[m] for m in cells.methods)]]
    for name, row in cells.networks.items():
        entries = [_entry(cells, name, method, cell) for method in cells.methods]
        lines.append([name, f"{row['neurons']:,}", *entries])
    return markdown(lines)


def _entry(cells: Cells, name: str, method: str, cell: Callable[[Cells, str, str], str]) -> str:
    row = cells.rows.get((name, method))
    if row is None:
        return ""
    if row["status"] == "done":
        return cell(cells, name, method)
    return f"> {row['limit']:g} s" if row["status"] == "timeout" else "-"


def bound(cells: Cells, name: str, method: str) -> str:
    if method == "lower":
        return f"{cells.lower(name):.5g}"
    bound = cells.rows[name, method]["bound"]
    return f"**{bound:.5g}**" if bound <= cells.tightest(name) * TIGHT else f"{bound:.5g}"


def ratio(cells: Cells, name: str, method: str) -> str:
    bound = cells.lower(name) if method == "lower" else cells.rows[name, method]["bound"]
    lower = cells.lower(name)
    return f"{bound / lower:.4g}" if lower > 0 else ""


def seconds(cells: Cells, name: str, method: str) -> str:
    return f"{cells.rows[name, method]['seconds']:.2f}"


def memory(cells: Cells, name: str, method: str) -> str:
    peak = cells.rows[name, method]["peak_mb"]
    return "-" if math.isnan(peak) else f"{peak:,.0f}"


def field(rows: Sequence[Row]) -> str:
    """The README's: a few networks and methods, bound and seconds in one cell."""
    cells = Cells([row for row in rows if row["part"] == "table"])
    shown = ("fnn3 0, all", "cnn3 0, all", "CNN1", "cnn_C5_CH16", "ResNet-20", "ResNet-18, 32x32")
    lines = [["network", "neurons", "at least", *(NAMES[m] for m in README)]]
    for name in shown:
        if name in cells.networks:
            entries = [_entry(cells, name, m, _both) for m in README]
            lines.append([name, f"{cells.networks[name]['neurons']:,}", f"{cells.lower(name):.4g}", *entries])
    return markdown(lines)


def _both(cells: Cells, name: str, method: str) -> str:
    shown = f"{cells.rows[name, method]['bound']:.4g}, {cells.rows[name, method]['seconds']:.3g} s"
    return f"**{shown}**" if method == "cold" else shown
