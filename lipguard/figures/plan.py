"""A plan, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipguard.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import nn

    from lipguard.planning.plan import PartitionPlan
    from lipguard.trusted.network.graph import Network
    from lipguard.trusted.reading.choice import Key
from lipguard.figures.history import _ACCURACY_COLOUR, _BOUND_COLOUR, _PLAIN_COLOUR, require_matplotlib


def plot_plan(
    plan: PartitionPlan, model: nn.Module, input_shape: Sequence[int], path: str | Path | None = None, *,
    output: Key | None = None, input: Key | None = None, fixed: Mapping[Key, Any] | None = None,
) -> Figure:  # fmt: skip
    """Draw a network as its layers in order, as high as they have entries, with the plan's blocks, cuts and tiles.

    Args:
        plan: of `lipguard.plan`.
        model: that the plan is for.
        input_shape: shape of one sample, without the batch axis.
        path: where to save the figure; the ending chooses the format.
        output, input, fixed: which function of the module, as for `lipguard.plan`.

    Returns:
        The figure, which no window and no global state of matplotlib knows of.

    Raises:
        ConfigError: the plan is for another network, or matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    from lipguard.trusted.layers import Activation
    from lipguard.trusted.reading.trace import trace

    network = trace(model, input_shape, output=output, input=input, fixed=fixed)
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
