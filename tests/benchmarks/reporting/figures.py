"""The figures of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..measuring.rows import NAMES, Row
from ..networks.families import FAMILIES, WHAT
from .cells import Cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


BOUNDS = [name for name in NAMES if name != "lower"]
COLOURS = {
    "cold": "#b3401f", "strict": "#e08a6d", "quick": "#c9653f", "dcp": "#7a5195", "scs": "#1b6ca8",
    "clarabel": "#4fa3d1", "liplt": "#3a7d44", "eclipse": "#8a8a2f",
    "eclipse_fast": "#b5a642", "product": "#6b6b6b", "gram": "#a0a0a0",
    "scs_proved": "#1b6ca8", "lower": "#000000",
}  # fmt: skip
MARKS = dict(zip(BOUNDS, "ovs^D<>pPX*h", strict=False))
PUBLISHED = (  # (neurons, seconds, what): as reported, on the machines of their authors
    (4_930, 864.0, "DCP's paper, CNN1"),
    (37_632, 4.3, "GLipSDP's paper, cnn_C5_CH16"),
)


def overview(rows: Sequence[Row]) -> Figure | None:
    """Bound, relative to lipguard's, against time: a mark per method and network."""
    cells = Cells([row for row in rows if row["part"] == "table"])
    figure = _figure(8.4, 4.2)
    axes = figure.subplots()
    for method in BOUNDS:
        own = [cells.done(name) for name in cells.networks]
        points = [(o[method], o["cold"]) for o in own if method in o and "cold" in o]
        if points:
            axes.plot(
                [row["seconds"] for row, _ in points], [row["bound"] / base["bound"] for row, base in points],
                MARKS[method], color=COLOURS[method], label=NAMES[method], markersize=6, alpha=0.8,
                zorder=3 if method == "cold" else 2,
            )  # fmt: skip
    if not axes.lines:
        return None
    _plain(axes)
    axes.set_ylim(0.8, min(axes.get_ylim()[1], 30))
    axes.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.set_xlabel("seconds")
    axes.set_ylabel("bound / lipguard's")
    figure.legend(fontsize=8, loc="outside right upper", frameon=False)
    return figure


def anytime(rows: Sequence[Row]) -> Figure | None:
    """Bound against time, per network: curves of what can be stopped, marks of what cannot."""
    curves = [row for row in rows if row["part"] == "anytime" and row["status"] == "done"]
    names = list(dict.fromkeys(row["network"] for row in curves))
    if not names:
        return None
    cells = Cells([row for row in rows if row["part"] == "table"])
    labels = NAMES | {"scs_proved": "LipSDP, SCS, proved by lipguard", "lower": "lower bound"}
    figure = _figure(3.2 * len(names), 4.2)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for method in dict.fromkeys(row["method"] for row in curves):
            own = sorted(
                (row["seconds"], row["bound"]) for row in curves if (row["network"], row["method"]) == (name, method)
            )
            if own:
                best = np.maximum.accumulate if method == "lower" else np.minimum.accumulate
                seconds, bounds = np.array(own).T
                line = ":" if method == "lower" else "-"
                axes.step(
                    seconds, best(bounds), line, where="post", marker=".", color=COLOURS[method], label=labels[method]
                )
        for method in ("product", "liplt", "eclipse", "eclipse_fast", "scs", "clarabel"):
            row = cells.done(name).get(method)
            if row is not None:
                axes.plot(
                    [row["seconds"]], [row["bound"]], MARKS[method], color=COLOURS[method], label=labels[method],
                    markersize=6,
                )  # fmt: skip
        _plain(axes)
        axes.set_yscale("linear")
        axes.set_ylim(bottom=0)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("seconds")
    figure.axes[0].set_ylabel("bound")
    _legend(figure, 4)
    return figure


def sizes(rows: Sequence[Row]) -> Figure | None:
    """Seconds against LMI variables, a panel per family."""
    own = [row for row in rows if row["part"] == "sizes" and row["status"] == "done"]
    families = [family for family in FAMILIES if any(row["family"] == family for row in own)]
    if not families:
        return None
    figure = _figure(3.2 * len(families), 4.0)
    for axes, family in zip(figure.subplots(1, len(families), sharey=True, squeeze=False)[0], families, strict=True):
        for method in dict.fromkeys(row["method"] for row in own):
            points = sorted(
                (row["variables"], row["seconds"]) for row in own if (row["family"], row["method"]) == (family, method)
            )
            if points:
                axes.plot(*np.array(points).T, ".-", color=COLOURS[method], label=NAMES[method])
        if family == "image":
            for neurons, seconds, what in PUBLISHED:
                axes.plot([neurons], [seconds], "x", color="#6b6b6b")
                axes.annotate(
                    what, (neurons, seconds), fontsize=7, textcoords="offset points", xytext=(-4, 6), ha="right"
                )
        _plain(axes)
        axes.set_title(WHAT[family], fontsize=8)
        axes.set_xlabel("LMI variables")
    figure.axes[0].set_ylabel("seconds")
    _legend(figure, 4)
    return figure


def epochs(rows: Sequence[Row]) -> Figure | None:
    """Bounds over a training, and what they cost."""
    row = next((row for row in rows if row["part"] == "epochs" and row["status"] == "done"), None)
    if row is None:
        return None
    figure = _figure(8.0, 3.4)
    bounds, cost = figure.subplots(1, 2)
    numbers = range(len(row["epochs"]))
    shown = {"product": ("-", "product"), "cold": ("-", "scs"), "warm": ("--", "cold"), "lower": (":", "lower")}
    for name, (line, colour) in shown.items():
        bounds.plot(numbers, [epoch[name] for epoch in row["epochs"]], line, color=COLOURS[colour], label=name)
    for name, colour in (("training", "product"), ("cold seconds", "scs"), ("warm seconds", "cold")):
        seconds = [epoch[name] for epoch in row["epochs"]]
        cost.plot(numbers, seconds, ".-", color=COLOURS[colour], label=name.removesuffix(" seconds"))
    for axes, what in ((bounds, "bound"), (cost, "seconds")):
        axes.set_xlabel("epoch")
        axes.set_ylabel(what)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8, frameon=False)
        axes.grid(True, color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _plain(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, columns: int) -> None:
    """One of all panels."""
    found = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }  # fmt: skip
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=columns, fontsize=8, frameon=False
    )
