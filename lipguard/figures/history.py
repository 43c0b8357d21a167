"""Figures of a training: accuracy and bounds, certified accuracy by radius."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipguard.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_ACCURACY_COLOUR = "#1b6ca8"
_BOUND_COLOUR = "#b3401f"
_PLAIN_COLOUR = "#6b6b6b"


def require_matplotlib() -> None:
    """Check that figures can be drawn.

    Raises:
        ConfigError: matplotlib is not installed; the message names the extra that brings it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError('Figures need matplotlib, which is not installed: pip install "lipguard[plot]".')


def plot_history(
    history: Sequence[Mapping[str, Any]],
    path: str | Path | None = None,
    title: str = "Accuracy and certified Lipschitz bound",
) -> Figure:
    """Draw accuracy and, below it on a logarithmic axis, the bounds over epochs.

    Args:
        history: one row per epoch with ``epoch`` and any of ``accuracy``, ``bound``, ``product_bound`` and
            ``lower_bound``; what a row lacks, or is not a positive finite bound, is a gap in its curve.
        path: where to save the figure; the ending chooses the format.
        title: the line above the figure.

    Returns:
        The figure, which no window and no global state of matplotlib knows of.

    Raises:
        ConfigError: the history is empty, or matplotlib is not installed.
    """
    require_matplotlib()
    if not history:
        raise ConfigError("Expected a history with at least one epoch, but got none.")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    figure.suptitle(title, fontsize=12)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    _draw_accuracy(upper, history)
    _draw_bounds(lower, history)
    # Below the axes, where it hides no curve.
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    for axes in (upper, lower):
        axes.grid(True, color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _draw_accuracy(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    axes.plot(_values(history, "epoch"), _values(history, "accuracy"), "o-", color=_ACCURACY_COLOUR, markersize=4)
    axes.set_ylabel("validation accuracy")


def _draw_bounds(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

    epochs = _values(history, "epoch")
    product, bound, below = (_positive(history, key) for key in ("product_bound", "bound", "lower_bound"))
    axes.fill_between(epochs, below, bound, color=_BOUND_COLOUR, alpha=0.08, linewidth=0)
    axes.plot(epochs, product, "s--", color=_PLAIN_COLOUR, markersize=3, label="product of layer norms")
    axes.plot(epochs, bound, "o-", color=_BOUND_COLOUR, markersize=4, label="certified upper bound")
    axes.plot(epochs, below, "v:", color=_PLAIN_COLOUR, markersize=3, label="lower bound (largest gradient)")
    drawn = [value for value in [*product, *bound, *below] if math.isfinite(value)]
    if drawn:
        axes.set_yscale("log")
        steps = (1.0, 2.0, 5.0) if max(drawn) < 1000 * min(drawn) else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=steps))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("epoch")
    axes.set_ylabel("Lipschitz constant")
    axes.set_xlim(min(epochs) - 0.3, max(epochs) + 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _values(history: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The column, NaN (which is drawn as a gap) where a row lacks it."""
    return [math.nan if row.get(key) is None else float(row[key]) for row in history]


def _positive(history: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [value if 0 < value < math.inf else math.nan for value in _values(history, key)]


def plot_certified_accuracy(radii: Sequence[float], shares: Sequence[float], path: str | Path | None = None) -> Figure:
    """The share of samples that are right, and provably stay so, by the length of a step.

    Args:
        radii: l2 lengths, rising.
        shares: of `CertifiedAccuracy.curve`.
        path: where to save the figure.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(radii, shares, color=_ACCURACY_COLOUR)
    axes.fill_between(radii, 0, shares, color=_ACCURACY_COLOUR, alpha=0.1, linewidth=0)
    axes.set_xlim(0, radii[-1])
    axes.set_ylim(0, 1)
    axes.set_xlabel("radius (l2)")
    axes.set_ylabel("certified accuracy")
    axes.spines[["top", "right"]].set_visible(False)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
