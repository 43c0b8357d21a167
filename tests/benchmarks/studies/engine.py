"""The fast engine beside the methods it replaces: one table, every method in the same run on the same weights.

    python tests/benchmarks/engine.py [--only NAME] [--methods cold warm ...] [--seeds 0 1 2 3 4] [--limit SECONDS]

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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from lipguard import DCPConfig
from lipguard.trusted.reading.trace import trace

from ..measuring.methods import certify, lipsdp, product, warm_in_steps
from ..measuring.process import Outcome, measure
from ..networks.training import MNIST, Sample, samples

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


@dataclass(frozen=True)
class Budget:
    """Seconds per method, threads, and the most LMI variables for which cvxpy is asked."""

    limit: float
    threads: int
    variables: int


class Runs:
    """The methods on one network, each at most once."""

    def __init__(self, sample: Sample, folder: Path, budget: Budget) -> None:
        self.sample, self.folder, self.budget = sample, folder, budget
        self.weights = self._save(sample.model, "weights.pt")
        self.state = folder / "state.pt"
        network = trace(sample.model, sample.input_shape)
        self.variables = network.nodes[0].size + network.neurons

    def outcome(self, method: str) -> Outcome | None:
        """What a method came to; None where it does not apply."""
        if method in ("scs", "clarabel"):
            small = self.variables <= self.budget.variables
            return self._measure(lipsdp, self.weights, method.upper()) if small else None
        if method == "dcp":
            return self._certify(self.weights, DCPConfig.paper())
        if method == "deterministic":
            randomised = self.cold.values.get("proof") == "randomised"
            return self._certify(self.weights, DCPConfig(failure_probability=0)) if randomised else None
        if method == "warm":
            return self.warm if self.state.exists() else Outcome("failed (no cold start)")
        return self.product if method == "product" else self.cold

    @cached_property
    def product(self) -> Outcome:
        return self._measure(product, self.weights)

    @cached_property
    def cold(self) -> Outcome:
        return self._certify(self.weights, DCPConfig(), keep=self.state)

    @cached_property
    def warm(self) -> Outcome:
        return self._certify(self.later, DCPConfig(), warm=self.state)

    @cached_property
    def cold_later(self) -> Outcome:
        """A cold certificate of the weights that the warm one is for."""
        return self._certify(self.later, DCPConfig())

    @cached_property
    def later(self) -> Path:
        return self._save(self.sample.later(), "later.pt")

    def excess(self, method: str, bound: float) -> str:
        """How far the bound is above the best one that is known."""
        if method != "warm":
            return _percent(bound / self.sample.optimum - 1) if self.sample.optimum else "-"
        cold = self.cold_later.values.get("bound", math.nan)
        return "-" if math.isnan(cold) else f"{_percent(bound / cold - 1)} over cold"

    def _save(self, model: nn.Module, name: str) -> Path:
        torch.save(model, self.folder / name)
        return self.folder / name

    def _certify(self, weights: Path, config: DCPConfig, warm: Path | None = None, keep: Path | None = None) -> Outcome:
        return self._measure(certify, weights, config.to_dict(), warm, keep)

    def _measure(self, work: object, weights: Path, *arguments: object) -> Outcome:
        assert callable(work)
        budget = self.budget
        return measure(work, weights, self.sample.input_shape, *arguments, limit=budget.limit, threads=budget.threads)


def main() -> None:
    """Print the table, row by row, and what follows from it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the digits networks, 0 to 4")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds per method")
    parser.add_argument("--variables", type=int, default=700, help="the largest LMI that cvxpy is asked to solve")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    budget = Budget(chosen.limit, chosen.threads, chosen.variables)
    torch.set_num_threads(budget.threads)
    notes = [f"Load of the machine at the start, by others: {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores."]
    seconds: dict[tuple[str, str], float | None] = {}  # None: out of time
    _print(HEADER)
    _print(["---"] * len(HEADER))
    for sample in samples(chosen.only, chosen.seeds, notes.append):
        if sample.accuracy is not None:
            notes.append(f"{sample.name}: accuracy {sample.accuracy:.3f}.")
        with tempfile.TemporaryDirectory() as folder:
            runs = Runs(sample, Path(folder), budget)
            for method in chosen.methods:
                outcome = runs.outcome(method)
                if outcome is not None:
                    _print(_row(runs, method, outcome))
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


def _percent(share: float) -> str:
    return f"{100 * share:+.4f} %" if abs(share) < 0.01 else f"{100 * share:+.1f} %"


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


def _print(cells: object) -> None:
    assert hasattr(cells, "__iter__")
    print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
