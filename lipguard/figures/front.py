"""Checkpoints by accuracy and bound."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lipguard.choosing.selection import Candidate, Selection
from lipguard.figures.history import _ACCURACY_COLOUR, _BOUND_COLOUR, _PLAIN_COLOUR, require_matplotlib


def plot_selection(selection: Selection, path: str | Path | None = None, radius: float | None = None) -> Figure:
    """Checkpoints by accuracy and bound (or certified accuracy at a radius), their Pareto front, the chosen one.

    Args:
        selection: of `lipguard.select`.
        path: where to save the figure.
        radius: draw certified accuracy at this radius.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    def height(candidate: Candidate) -> float:
        return candidate.bound if radius is None else candidate.certified.get(radius, math.nan)

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([c.accuracy for c in selection.candidates], [height(c) for c in selection.candidates], "o",
              color=_PLAIN_COLOUR, markersize=4, alpha=0.6, label="checkpoints")  # fmt: skip
    front = sorted(selection.front, key=lambda c: c.accuracy)
    axes.plot([c.accuracy for c in front], [height(c) for c in front], "o-", color=_BOUND_COLOUR, markersize=5,
              label="Pareto front")  # fmt: skip
    axes.plot([selection.chosen.accuracy], [height(selection.chosen)], "*", color=_ACCURACY_COLOUR, markersize=16,
              label="chosen")  # fmt: skip
    axes.set_xlabel("validation accuracy")
    if radius is None:
        axes.set_yscale("log")
    axes.set_ylabel("certified Lipschitz bound" if radius is None else f"certified accuracy at {radius:g}, as logged")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    axes.set_title(selection.rule, fontsize=10)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
