"""How time and memory of a certificate grow with the network, beside the cost of one forward pass.

    python tests/benchmarks/scaling.py [--sweeps size channels depth] [--points N] [--proof auto] [--plot PATH]

Convolutional networks with random weights (torch's initialisation, seeded): 3x3 convolutions with padding 1, each with
a ReLU, then the mean over the image and a linear layer to 10 outputs. One of these is varied at a time:

    size       4 convolutions of 8 channels on images of 14 to 112 pixels a side
    channels   3 convolutions of 4 to 128 channels on 28x28
    depth      2 to 32 convolutions of 8 channels on 28x28

Every point is one cold `lipguard.certify` in a fresh process; imports do not count, nor what is done once per machine.
An iteration is a forward and a backward pass of the power iteration, all its vectors at once: the time of all proposals
over their number of iterations, so it has its share of what is done once per solve. Multiply-adds are those of one
forward pass of one sample. The gap is `report.relaxation_gap`: LipSDP's own optimum is at most so far below the bound.
Peak memory is the process's own, with the imports (in the column before it). Below the table: exponents e of
seconds ~ multiply-adds^e, fitted to all points of a sweep.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

import lipguard
from lipguard import DCPConfig
from lipguard.proposing.power import run as power
from lipguard.trusted.reading.trace import trace

from ..measuring.methods import warm_up
from ..measuring.process import Clock, Outcome, measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SWEEPS = {"size": (14, 28, 56, 112), "channels": (4, 8, 16, 32, 64, 128), "depth": (2, 4, 8, 16, 32)}
LABELS = {"size": "image side", "channels": "channels", "depth": "convolutions"}
HEADER = (
    "sweep", "value", "LMI variables", "multiply-adds (M)", "iterations", "ms per iteration", "s", "predicted s",
    "bound / product", "gap", "proof", "imports MB", "peak MB",
)  # fmt: skip


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


def network(sweep: str, value: int) -> tuple[nn.Sequential, tuple[int, ...]]:
    """The network of a point, in eval mode, and its input shape."""
    shape = {"size": 28, "channels": 8, "depth": {"size": 4, "channels": 3}.get(sweep, 0)} | {sweep: value}
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(shape["depth"]):
        layers += [nn.Conv2d(shape["channels"] if i else 1, shape["channels"], 3, padding=1), nn.ReLU()]
    layers += [nn.AvgPool2d(shape["size"]), nn.Flatten(), nn.Linear(shape["channels"], 10)]
    return nn.Sequential(*layers).eval(), (1, shape["size"], shape["size"])


def multiply_adds(model: nn.Sequential, shape: tuple[int, ...]) -> int:
    """Of the convolutions and linear layers, in a forward pass of one sample."""
    found = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            found.append(output.numel() * layer.weight[0].numel())

    hooks = [layer.register_forward_hook(count) for layer in model]
    with torch.no_grad():
        model(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    return sum(found)


def certify(clock: Clock, sweep: str, value: int, settings: dict[str, object]) -> dict[str, Any]:
    """Certify the network of a point, with a stopwatch around the proposals of the power iteration."""
    config = DCPConfig.from_dict(settings)
    model, shape = network(sweep, value)
    warm_up(config)
    spent: list[tuple[float, int]] = []  # (seconds, iterations) of every proposal
    propose = power.propose

    def timed(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        proposal = propose(*arguments, **named)
        spent.append((time.perf_counter() - start, proposal.iterations))
        return proposal

    with patch.object(power, "propose", timed), clock:
        report = lipguard.certify(model, shape, config)
    return {
        "bound": report.bound, "product": report.product_bound, "proof": report.proof, "status": report.status,
        "gap": report.relaxation_gap, "predicted": report.plan.seconds, "propose": sum(s for s, _ in spent),
        "iterations": sum(n for _, n in spent),
    }  # fmt: skip


def main() -> None:
    """Print the table and the exponents; draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--points", type=int, help="the first so many of every sweep")
    parser.add_argument("--proof", default="randomised", help="of every point; 'auto' is what a user gets")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds per point")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="where to save a figure")
    chosen = parser.parse_args()
    config = DCPConfig(proof=chosen.proof)
    points = []
    _print(HEADER)
    _print(["---"] * len(HEADER))
    for sweep in chosen.sweeps:
        for value in SWEEPS[sweep][: chosen.points]:
            model, shape = network(sweep, value)
            nodes = trace(model, shape)
            variables = nodes.nodes[0].size + nodes.neurons
            outcome = measure(certify, sweep, value, config.to_dict(), limit=chosen.limit, threads=chosen.threads)
            points.append(Point(sweep, value, multiply_adds(model, shape), variables, outcome))
            _print(_row(points[-1]))
    print()
    for sweep in chosen.sweeps:
        own = [point for point in points if point.sweep == sweep]
        print(
            f"- {sweep}: time of an iteration ~ multiply-adds^{_exponent(own, 'iteration')}, "
            f"of the whole certificate ~ multiply-adds^{_exponent(own, 'total')}"
        )
    if chosen.plot is not None:
        plot(points, chosen.plot)


def _row(point: Point) -> tuple[str, ...]:
    outcome, values = point.outcome, point.outcome.values
    start = (point.sweep, str(point.value), f"{point.variables:,}", f"{point.multiply_adds / 1e6:.2f}")
    memory = tuple("-" if math.isnan(mb) else f"{mb:.0f}" for mb in (outcome.baseline, outcome.peak))
    if outcome.status != "done":
        return (*start, "-", "-", f"{outcome.status}, > {outcome.seconds:.0f}", "-", "-", "-", "-", *memory)
    proof = values["proof"] if values["status"] == "complete" else f"{values['proof']} ({values['status']})"
    return (
        *start, str(values["iterations"]), f"{1e3 * point.iteration:.1f}", f"{point.total:.2f}",
        f"{point.predicted:.2f}", f"{values['bound'] / values['product']:.2g}", f"{100 * values['gap']:.2g} %",
        proof, *memory,
    )  # fmt: skip


def _print(cells: Sequence[str]) -> None:
    print("|", " | ".join(cells), "|", flush=True)


def _exponent(points: Sequence[Point], name: str) -> str:
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


if __name__ == "__main__":
    main()
