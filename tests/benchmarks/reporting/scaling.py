"""Points of the study of scaling, their exponents and their figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..measuring.process import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes


LABELS = {"size": "image side", "channels": "channels", "depth": "convolutions"}


@dataclass(frozen=True)
class Point:
    """A network of a sweep, and what its certificate took."""

    sweep: str
    value: int
    multiply_adds: int
    variables: int
    outcome: Outcome

    @property
    def iteration(self) -> float:
        """Seconds of one step of the power iteration."""
        values = self.outcome.values
        return float(values["propose"] / values["iterations"]) if values.get("iterations") else math.nan

    @property
    def total(self) -> float:
        """Seconds of the certification."""
        return self.outcome.seconds if self.outcome.status == "done" else math.nan

    @property
    def predicted(self) -> float:
        """What the plan said that it would take."""
        return float(self.outcome.values.get("predicted", math.nan))


def exponent(points: Sequence[Point], name: str) -> str:
    """The slope of log time over log multiply-adds, where there are two points."""
    found = [(point.multiply_adds, getattr(point, name)) for point in points if getattr(point, name) > 0]
    if len(found) < 2:
        return "?"
    work, seconds = np.log(np.array(found, dtype=float)).T
    return f"{np.polyfit(work, seconds, 1)[0]:.2f}"


def plot(points: Sequence[Point], path: Path) -> None:
    """One panel per sweep: seconds over what is varied, on logarithmic axes."""
    from matplotlib.figure import Figure

    sweeps = list(dict.fromkeys(point.sweep for point in points))
    figure = Figure(figsize=(3.6 * len(sweeps), 3.9), layout="constrained")
    figure.suptitle("Time of a certificate over the size of the network", fontsize=12)
    panels = figure.subplots(1, len(sweeps), sharey=True, squeeze=False)[0]
    for axes, sweep in zip(panels, sweeps, strict=True):
        _draw(axes, [point for point in points if point.sweep == sweep])
        axes.set_xlabel(LABELS[sweep])
    panels[0].set_ylabel("seconds")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def _draw(axes: Axes, points: Sequence[Point]) -> None:
    """One panel: seconds measured and predicted, of an iteration, and in proportion to multiply-adds."""
    from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullLocator

    values = [point.value for point in points]
    first = next((point for point in points if point.iteration > 0), None)
    axes.plot(values, [point.total for point in points], "o-", color="#b3401f", markersize=4, label="certificate")
    axes.plot(
        values, [p.predicted for p in points], "s--", color="#6b6b6b", markersize=3, label="predicted by the plan"
    )
    axes.plot(values, [p.iteration for p in points], "o-", color="#1b6ca8", markersize=4, label="one iteration")
    if first is not None:
        unit = first.iteration / first.multiply_adds
        proportional = [unit * point.multiply_adds for point in points]
        axes.plot(values, proportional, ":", color="#1b6ca8", label="in proportion to multiply-adds")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FormatStrFormatter("%d"))
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
