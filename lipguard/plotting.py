"""Figures of training runs and plans. matplotlib is imported when one is drawn, and its global state is left alone."""

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
    from torch import nn

    from lipguard.selection import Candidate, Selection
    from lipguard.trusted.network.blocks import PartitionPlan
    from lipguard.trusted.network.graph import Network

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


def plot_plan(
    plan: PartitionPlan, model: nn.Module, input_shape: Sequence[int], path: str | Path | None = None
) -> Figure:
    """Draw a network as its layers in order, as high as they have entries, with the plan's blocks, cuts and tiles.

    Args:
        plan: of `lipguard.plan`.
        model: that the plan is for.
        input_shape: shape of one sample, without the batch axis.
        path: where to save the figure; the ending chooses the format.

    Returns:
        The figure, which no window and no global state of matplotlib knows of.

    Raises:
        ConfigError: the plan is for another network, or matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    from lipguard.trusted.layers import Activation
    from lipguard.trusted.reading.trace import trace

    network = trace(model, input_shape)
    if network.architecture != plan.architecture:
        raise ConfigError("The plan is for a network of another architecture.")
    figure = Figure(figsize=(max(5.0, 0.55 * len(network.nodes) + 1.5), 4.4), layout="constrained")
    axes = figure.subplots()
    for i, node in enumerate(network.nodes):
        neurons = isinstance(node.layer, Activation)
        axes.bar(i, node.size, width=0.8, bottom=1, color=_BOUND_COLOUR if neurons else "#c9c9c9")
    highest = max(node.size for node in network.nodes)
    for block in plan.blocks:
        axes.axvspan(block.start + 0.5, block.stop + 0.5, ymax=0.86, color=_ACCURACY_COLOUR, alpha=0.07, linewidth=0)
        middle = (block.start + block.stop + 1) / 2
        label = block.method if block.kind == "norm" else f"{block.method}\n{block.proof} proof"
        axes.text(middle, highest * 12, label, ha="center", va="center", fontsize=8, zorder=3,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})  # fmt: skip
        axes.axvline(block.stop + 0.5, color=_PLAIN_COLOUR, linewidth=0.8)
        for cut in block.cuts:
            axes.axvline(cut + 0.5, color=_BOUND_COLOUR, linestyle="--", linewidth=1.2)
        if block.tile is not None:
            _draw_tiles(axes, block.stop, network, block.tile)
        for end, (rows, columns) in zip([*block.cuts, block.stop], block.grids, strict=False):
            if rows * columns > 1:
                height, width = network.nodes[end].shape[1:]
                _draw_tiles(axes, end, network, (height / rows, width / columns))
    axes.set_yscale("log")
    axes.set_ylim(1, highest * 40)
    axes.set_xlim(-0.6, len(network.nodes) - 0.4)
    labels = [f"{node.path} {type(node.layer).__name__.lower()}" for node in network.nodes]
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=8)
    axes.set_ylabel("entries (neurons in colour)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{plan.ratio:.3f} of the product of norms, {plan.seconds:.1f} s, predicted", fontsize=10)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _draw_tiles(axes: Axes, node: int, network: Network, tile: tuple[float, float]) -> None:
    """The grid of tiles over the image of a node, in a square beside it."""
    inset = axes.inset_axes((node - 0.4, 1.5, 0.8, network.nodes[node].size / 2), transform=axes.transData)
    height, width = network.nodes[node].shape[1:]
    inset.set_xlim(0, width)
    inset.set_ylim(height, 0)
    inset.set_xticks([i * tile[1] for i in range(1 + round(width / tile[1]))], labels=[])
    inset.set_yticks([i * tile[0] for i in range(1 + round(height / tile[0]))], labels=[])
    inset.tick_params(length=0)
    inset.grid(True, color=_PLAIN_COLOUR, linewidth=0.6)


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
