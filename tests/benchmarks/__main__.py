"""lipguard beside the methods of others, on the same weights, in one run.

    python -m tests.benchmarks [--all] [--only NAME] [--methods cold ...] [--limit SECONDS] [--json PATH]
    python -m tests.benchmarks --tables PATH.json   # the tables and the plot of an earlier run

Every method runs in a process of its own, on the same threads. Without `--all`: a few small networks and CNN1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # the modules here import each other by name

import torch
from architectures import CASES, trained
from measuring import Outcome, measure
from methods import certify, lipsdp, product
from others import eclipse, gram_product, liplt, lower
from torch import nn
from torch.nn.utils import parametrizations
from training import MNIST, Sample, mnist, samples

from lipguard import DCPConfig
from lipguard.network.trace import trace

QUICK = ("fnn2 0, all", "fnn3 0, all", "cnn2 0, all", "cnn3 0, all", "cnn_C5_CH16", "CNN1", "orthogonal")
NAMES = {
    "lower": "lower bound (ascent)",
    "product": "product",
    "gram": "product, Gram iteration",
    "dcp": "DCP as published",
    "scs": "LipSDP, SCS",
    "clarabel": "LipSDP, Clarabel",
    "liplt": "LipLT",
    "eclipse": "ECLipsE",
    "eclipse_fast": "ECLipsE-Fast",
    "cold": "lipguard",
    "quick": "lipguard, 2 s",
    "strict": "lipguard, no chance",
}
BOUNDS = [name for name in NAMES if name != "lower"]


@dataclass(frozen=True)
class Limits:
    """Of every method: seconds, threads; LMI variables up to which cvxpy is asked; seconds of the lower bound."""

    seconds: float
    threads: int
    variables: int
    ascent: float


def networks(everything: bool, only: str, note: Callable[[str], None]) -> Iterator[Sample]:
    """Peers' networks, the paper's, residual ones, and some whose constant is known."""
    found = samples(only, [0, 1, 2, 3, 4] if everything else [0], note)
    for sample in found:
        if everything or sample.name in QUICK:
            yield sample
    for build in (_orthogonal, _diagonal):
        if only.lower() in build().name:
            yield build()
    if everything and MNIST.is_dir():
        images, labels = mnist()
        for case in CASES:
            if only.lower() in case.name.lower():
                model, accuracy = trained(case, images, labels)
                yield Sample(case.name, model, case.shape, lambda m=model: m, accuracy=accuracy)  # type: ignore[misc]


def _orthogonal() -> Sample:
    """Orthogonal layers with absolute values: 1-Lipschitz, and attained."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(4):
        layers += [parametrizations.orthogonal(nn.Linear(32, 32)), nn.LeakyReLU(-1.0)]
    model = nn.Sequential(*layers, parametrizations.orthogonal(nn.Linear(32, 32))).eval()
    for layer in model:
        if isinstance(layer, nn.Linear):
            torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    return Sample("orthogonal, 5 layers", model, (32,), lambda: model, 1.0)


def _diagonal() -> Sample:
    """Diagonal layers: the constant is the product of the largest."""
    model = nn.Sequential(nn.Linear(8, 8, False), nn.ReLU(), nn.Linear(8, 8, False))
    with torch.no_grad():
        for k in (0, 2):
            model[k].weight.copy_(torch.diag(torch.linspace(0.5, 2.0, 8)))
    return Sample("diagonal, 2 layers", model.eval(), (8,), lambda: model, 4.0)


def outcome(method: str, weights: Path, sample: Sample, limits: Limits) -> Outcome | None:
    """What a method came to; None where it does not apply."""
    network = trace(sample.model, sample.input_shape)
    variables = network.nodes[0].size + network.neurons
    work: Callable[..., dict[str, Any]]
    arguments: tuple[object, ...] = ()
    settings = {"cold": DCPConfig(), "quick": DCPConfig(max_seconds=2.0), "strict": DCPConfig(failure_probability=0)}
    if method in ("scs", "clarabel"):
        if variables > limits.variables:
            return None
        work, arguments = lipsdp, (method.upper(),)
    elif method in ("eclipse", "eclipse_fast"):
        work, arguments = eclipse, ({"eclipse": "ECLipsE", "eclipse_fast": "ECLipsE_Fast"}[method],)
    elif method == "dcp":
        work, arguments = certify, (DCPConfig.paper().to_dict(), None, None)
    elif method in settings:
        work, arguments = certify, (settings[method].to_dict(), None, None)
    elif method == "lower":
        work, arguments = lower, (limits.ascent,)
    else:
        work = {"product": product, "gram": gram_product, "liplt": liplt}[method]
    return measure(work, weights, sample.input_shape, *arguments, limit=limits.seconds, threads=limits.threads)


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """All rows, printed as they come."""
    limits = Limits(chosen.limit, chosen.threads, chosen.variables, chosen.ascent)
    torch.set_num_threads(limits.threads)
    notes: list[str] = []
    rows: list[dict[str, Any]] = []
    for sample in networks(chosen.all, chosen.only, notes.append):
        network = trace(sample.model, sample.input_shape)
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder, "weights.pt")
            torch.save(sample.model, weights)
            for method in chosen.methods:
                found = outcome(method, weights, sample, limits)
                if found is None:
                    continue
                rows.append({
                    "network": sample.name, "neurons": network.neurons, "method": method, "status": found.status,
                    "bound": found.values.get("bound"), "seconds": found.seconds, "peak_mb": found.peak,
                    "proof": found.values.get("proof"), "known": sample.optimum,
                })  # fmt: skip
                print(rows[-1], flush=True)
                if chosen.json:
                    chosen.json.write_text(json.dumps(_about(chosen) | {"rows": rows, "notes": notes}, indent=1))
    return _about(chosen) | {"rows": rows, "notes": notes}


def _about(chosen: argparse.Namespace) -> dict[str, Any]:
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores", "threads": chosen.threads, "limit": chosen.limit,
        "torch": torch.__version__,
    }  # fmt: skip


def tables(results: dict[str, Any]) -> str:
    """Bounds, then seconds: a row per network, a column per method; the tightest in bold."""
    rows = results["rows"]
    methods = [m for m in NAMES if any(row["method"] == m for row in rows)]
    names = list(dict.fromkeys(row["network"] for row in rows))
    cell = {(row["network"], row["method"]): row for row in rows}
    lines = [f"{results['machine']}, {results['threads']} threads, at most {results['limit']:g} s per method.", ""]
    head = ["network", "neurons", *(NAMES[m] for m in methods)]
    rule = "|" + "---|" * len(head)
    for what in ("bound", "seconds"):
        lines += [f"**{what.capitalize()}**", "", "| " + " | ".join(head) + " |", rule]
        for name in names:
            done = {m: cell[name, m] for m in methods if (name, m) in cell and cell[name, m]["status"] == "done"}
            best = min((r["bound"] for m, r in done.items() if m != "lower"), default=math.nan)
            cells = [name, f"{next(r['neurons'] for r in rows if r['network'] == name):,}"]
            for m in methods:
                row = cell.get((name, m))
                if row is None:
                    cells.append("")
                elif row["status"] != "done":
                    cells.append("-" if row["status"].startswith("failed") else f"> {results['limit']:g} s")
                elif what == "seconds":
                    cells.append(f"{row['seconds']:.2f}")
                else:
                    tight = m != "lower" and row["bound"] <= best * 1.005
                    cells.append(f"**{row['bound']:.5g}**" if tight else f"{row['bound']:.5g}")
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join([*lines, *(f"- {note}" for note in [*results["notes"], *verdicts(rows)])])


def verdicts(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Where lipguard's default is not the tightest, or not the fastest of the tightest; and the reverse."""
    names = list(dict.fromkeys(row["network"] for row in rows))
    tight = fast = total = 0
    for name in names:
        own = {r["method"]: r for r in rows if r["network"] == name and r["status"] == "done" and r["method"] in BOUNDS}
        if "cold" not in own:
            continue
        total += 1
        mine, best = own["cold"], min(r["bound"] for r in own.values())
        if mine["bound"] <= best * 1.005:
            tight += 1
        else:
            who = min(own.values(), key=lambda r: r["bound"])
            yield f"{name}: {NAMES[who['method']]} reports {who['bound']:.6g}, lipguard {mine['bound']:.6g}."
        rivals = [r for m, r in own.items() if r["bound"] <= best * 1.01 and m not in ("cold", "quick", "strict")]
        if all(mine["seconds"] <= r["seconds"] for r in rivals):
            fast += 1
        else:
            who = min(rivals, key=lambda r: r["seconds"])
            yield f"{name}: {NAMES[who['method']]} takes {who['seconds']:.2f} s, lipguard {mine['seconds']:.2f} s."
    yield f"lipguard's default is the tightest, or within 0.5 % of it, on {tight} of {total} networks."
    yield f"It is the fastest of those within 1 % of the tightest on {fast} of {total}."


def plot(results: dict[str, Any], path: Path) -> None:
    """Bound, relative to lipguard's, against time: a mark per method and network."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.4, 4.2), layout="constrained")
    base = {r["network"]: r["bound"] for r in results["rows"] if r["method"] == "cold" and r["status"] == "done"}
    marks = "ovs^D<>pPX*h"
    for mark, method in zip(marks, BOUNDS, strict=False):
        own = [r for r in results["rows"] if r["method"] == method and r["status"] == "done" and r["network"] in base]
        if own:
            axes.plot([r["seconds"] for r in own], [r["bound"] / base[r["network"]] for r in own], mark,
                      label=NAMES[method], markersize=6, alpha=0.8)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.axhline(1.0, color="#6b6b6b", linewidth=0.6)
    axes.set_xlabel("seconds")
    axes.set_ylabel("bound / lipguard's")
    figure.legend(fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run, or make tables of what was run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every network, architectures among them (hours)")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--limit", type=float, default=60.0, help="seconds per method")
    parser.add_argument("--variables", type=int, default=700, help="the largest LMI that cvxpy is asked to solve")
    parser.add_argument("--ascent", type=float, default=5.0, help="seconds of the lower bound's search")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--tables", type=Path, help="results of an earlier run, to print")
    parser.add_argument("--plot", type=Path, help="write the figure there")
    chosen = parser.parse_args()
    results = json.loads(chosen.tables.read_text()) if chosen.tables else run(chosen)
    print(tables(results))
    if chosen.plot:
        plot(results, chosen.plot)


if __name__ == "__main__":
    main()
