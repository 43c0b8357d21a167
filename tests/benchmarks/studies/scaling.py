"""How time and memory of a certificate grow with the network, beside the cost of one forward pass.

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
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lipguard
from lipguard import DCPConfig
from lipguard.proposing.power import run as power
from lipguard.trusted.reading.trace import trace

from ..measuring.methods import warm_up
from ..measuring.process import Clock, measure
from ..networks.growing import SWEEPS, multiply_adds, network
from ..reporting.markdown import print_head, print_row
from ..reporting.scaling import Point, exponent, plot

HEADER = (
    "sweep", "value", "LMI variables", "multiply-adds (M)", "iterations", "ms per iteration", "s", "predicted s",
    "bound / product", "gap", "proof", "imports MB", "peak MB",
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study."""
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--points", type=int, help="the first so many of every sweep")
    parser.add_argument("--proof", default="randomised", help="of every point; 'auto' is what a user gets")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds per point")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="where to save a figure")


def run(chosen: argparse.Namespace) -> None:
    """Print the table and the exponents; draw them."""
    config = DCPConfig(proof=chosen.proof)
    points = []
    print_head(HEADER)
    for sweep in chosen.sweeps:
        for value in SWEEPS[sweep][: chosen.points]:
            model, shape = network(sweep, value)
            nodes = trace(model, shape)
            variables = nodes.nodes[0].size + nodes.neurons
            outcome = measure(certify, sweep, value, config.to_dict(), limit=chosen.limit, threads=chosen.threads)
            points.append(Point(sweep, value, multiply_adds(model, shape), variables, outcome))
            print_row(_row(points[-1]))
    print()
    for sweep in chosen.sweeps:
        own = [point for point in points if point.sweep == sweep]
        print(
            f"- {sweep}: time of an iteration ~ multiply-adds^{exponent(own, 'iteration')}, "
            f"of the whole certificate ~ multiply-adds^{exponent(own, 'total')}"
        )
    if chosen.plot is not None:
        plot(points, chosen.plot)


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
