"""The fast engine beside the methods it replaces: one table, every method in the same run on the same weights.

Networks: digits networks and stacks of convolutions that others trained (`LIPGUARD_PEERS`, a folder with `load.py`),
and networks that are trained here on MNIST (`LIPGUARD_MNIST`, a folder with the IDX files of the 10,000 test images:
9,000 to train on). Methods:

    product        the product of layer norms
    dcp            DCP as published: `DCPConfig.paper()`
    scs, clarabel  cvxpy on LipSDP's LMI of the whole network, with the solver's default settings: a value, no proof
    cold           `lipguard.certify(model, input_shape)`
    deterministic  the same with `failure_probability=0`, where the cold one was randomised
    warm           the same with `warm_start` from the cold one, after one more epoch of training, or where there is no
                   data after 1 % of relative noise on every weight

Every method runs in a fresh process of its own, with the same number of threads. Seconds are wall time around the call
and have everything in them but imports, and but what is done once per machine or process: three neurons are certified
before. Peak memory is the process's own (imports included, which the column before it gives), with that of worker
processes. Excess is over LipSDP's optimum as the peers' README lists it (of the stacks to four digits); that of a warm
certificate is over a cold one of the same weights. Where a method ran out of time, the memory is what it had taken.

Below the table: how much faster the cold certificate is than SCS, and a warm certificate of CNN1 in units of training
steps, both measured in one process.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from ..measuring.each import Budget, Runs
from ..measuring.epochs import warm_in_steps
from ..measuring.process import Outcome, measure
from ..networks.named import samples
from ..networks.training import MNIST
from ..reporting.markdown import print_head, print_row

NAMES = {
    "product": "product",
    "dcp": "DCP as published",
    "scs": "cvxpy + SCS, full LMI",
    "clarabel": "cvxpy + Clarabel, full LMI",
    "cold": "lipguard, cold",
    "deterministic": "lipguard, deterministic",
    "warm": "lipguard, warm",
}
HEADER = (
    "network", "LMI variables", "method", "bound", "/ product", "excess", "proof", "s", "imports MB", "peak MB",
    "threads",
)  # fmt: skip
TRAINED = "CNN1"  # whose warm certificate is given in training steps
TARGET = 40  # training steps


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study."""
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the digits networks, 0 to 4")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds per method")
    parser.add_argument("--variables", type=int, default=700, help="the largest LMI that cvxpy is asked to solve")
    parser.add_argument("--threads", type=int, default=2)


def run(chosen: argparse.Namespace) -> None:
    """Print the table, row by row, and what follows from it."""
    budget = Budget(chosen.limit, chosen.threads, chosen.variables)
    torch.set_num_threads(budget.threads)
    notes = [f"Load of the machine at the start, by others: {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores."]
    seconds: dict[tuple[str, str], float | None] = {}  # None: out of time
    print_head(HEADER)
    for sample in samples(chosen.only, chosen.seeds, notes.append):
        if sample.accuracy is not None:
            notes.append(f"{sample.name}: accuracy {sample.accuracy:.3f}.")
        with tempfile.TemporaryDirectory() as folder:
            runs = Runs(sample, Path(folder), budget)
            for method in chosen.methods:
                outcome = runs.outcome(method)
                if outcome is not None:
                    print_row(_row(runs, method, outcome))
                    if outcome.status in ("done", "timeout"):
                        seconds[sample.name, method] = outcome.seconds if outcome.status == "done" else None
    notes += _speed_up(seconds, budget.limit)
    if chosen.only.lower() in TRAINED.lower() and "warm" in chosen.methods and MNIST.is_dir():
        notes.append(_training_steps(budget))
    print("\n".join(["", *(f"- {note}" for note in notes)]))


def _row(runs: Runs, method: str, outcome: Outcome) -> Iterator[str]:
    yield from (runs.sample.name, f"{runs.variables:,}", NAMES[method])
    if outcome.status == "done":
        bound, values = outcome.values["bound"], outcome.values
        whole = values.get("product", runs.product.values.get("product", math.nan))
        yield from (f"{bound:.6g}", f"{bound / whole:.4f}", runs.excess(method, bound), _proof(values))
    else:
        yield from (outcome.status, "-", "-", "-")
    yield f"{outcome.seconds:.2f}" if outcome.status == "done" else f"> {outcome.seconds:.0f}"
    yield from ("-" if math.isnan(mb) else f"{mb:.0f}" for mb in (outcome.baseline, outcome.peak))
    yield str(runs.budget.threads)


def _proof(values: dict[str, object]) -> str:
    """The proof, with its failure probability, and what did not go as it should."""
    proof, status = str(values["proof"]), values.get("status", "complete")
    if values.get("failure_probability"):
        proof += f", {values['failure_probability']:.0e}"
    return proof if status in ("complete", "optimal") else f"{proof} ({status})"


def _speed_up(seconds: dict[tuple[str, str], float | None], limit: float) -> Iterator[str]:
    """How much faster than SCS, where both ran."""
    found = []
    for name, method in seconds:
        cold, scs = seconds.get((name, "cold")), seconds[name, method]
        if method == "scs" and cold is not None:
            found.append(f"{name}: {scs / cold:.0f}" if scs is not None else f"{name}: more than {limit / cold:.0f}")
    if found:
        yield f"{NAMES['cold']}, times as fast as {NAMES['scs']}: {'; '.join(found)}."


def _training_steps(budget: Budget) -> str:
    outcome = measure(warm_in_steps, 6, limit=10 * budget.limit, threads=budget.threads)
    if outcome.status != "done":
        return f"A warm certificate of {TRAINED} in training steps: {outcome.status}."
    values = outcome.values
    warm = statistics.median(values["warm"])
    return (
        f"A warm certificate of {TRAINED} costs {warm / values['trainer step']:.1f} training steps (target: {TARGET} "
        f"at most) of {1e3 * values['trainer step']:.1f} ms in a Lightning Trainer that logs nothing, or "
        f"{warm / values['step']:.1f} of {1e3 * values['step']:.1f} ms in a plain loop, batch of 64 (medians; "
        f"{', '.join(f'{1e3 * s:.0f}' for s in values['warm'])} ms); the cold one took {values['cold']:.2f} s."
    )
