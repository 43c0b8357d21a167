"""Methods on networks: one row for each, as it is measured.

Parts: `table` (every method on every network), `sizes` (families of networks that grow), `anytime` (the bound that a
method has after so many seconds) and `epochs` (a network while it trains, cold against warm).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from lipguard import DCPConfig
from lipguard.trusted.reading.trace import trace

from ..networks.families import FAMILIES, member
from ..networks.sample import Sample
from ..networks.table import table
from ..networks.training import MNIST
from .epochs import each_epoch
from .methods import certify, lipsdp, product
from .others import eclipse, gram_product, liplt, lower
from .process import Outcome, measure

Row = dict[str, Any]
Done = Callable[[Row], bool]  # whether an earlier run has this row
PRESETS = {
    "cold": DCPConfig(),
    "quick": DCPConfig(max_seconds=2.0),
    "strict": DCPConfig(failure_probability=0),
    "dcp": DCPConfig.paper(),
    "scs_proved": DCPConfig(partition="none", solver="scs"),
}
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
OURS = ("cold", "quick", "strict")
LARGE, PATIENCE = 100_000, 15  # neurons, and how much longer every method has from there on
SIZED = ("scs", "liplt", "eclipse_fast", "cold")  # methods of the part `sizes`
ANYTIME = {  # method: seconds that it is given
    "cold": (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
    "dcp": (1.0, 3.0, 10.0, 30.0),
    "scs_proved": (1.0, 3.0, 10.0, 30.0),
    "lower": (0.1, 0.5, 2.0, 10.0),
}
CURVES = ("fnn3 0, all", "cnn2 0, all", "cnn_C5_CH16", "CNN1")  # networks of the part `anytime`
EPOCHS = 8


def measured(chosen: argparse.Namespace, done: Done, note: Callable[[str], None]) -> Iterator[Row]:
    """Rows, as they come; those that are `done` are passed over."""
    for part in chosen.parts:
        yield from PARTS[part](chosen, done, note)


def _table(chosen: argparse.Namespace, done: Done, note: Callable[[str], None]) -> Iterator[Row]:
    for sample in table(chosen.all, chosen.only, note, chosen.networks):
        yield from _on(sample, chosen.methods, {"part": "table"}, chosen, done)


def _sizes(chosen: argparse.Namespace, done: Done, _: Callable[[str], None]) -> Iterator[Row]:
    for family, values in FAMILIES.items():
        for value in values if chosen.only.lower() in family else ():
            about = {"part": "sizes", "family": family, "value": value}
            own = [m for m in SIZED if m in chosen.methods]
            yield from _on(member(family, value), own, about, chosen, done)


def _anytime(chosen: argparse.Namespace, done: Done, note: Callable[[str], None]) -> Iterator[Row]:
    for sample in table(False, chosen.only, note, chosen.networks):
        if sample.name in CURVES:
            for method, budgets in ANYTIME.items():
                for budget in budgets:
                    yield from _on(sample, [method], {"part": "anytime", "budget": budget}, chosen, done)


def _on(sample: Sample, methods: list[str], about: Row, chosen: argparse.Namespace, done: Done) -> Iterator[Row]:
    """Methods on one network."""
    network = trace(sample.model, sample.input_shape)
    variables = network.nodes[0].size + network.neurons
    start = about | {"network": sample.name, "neurons": network.neurons, "device": chosen.device}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.pt")
        torch.save(sample.model, weights)
        for method in methods:
            row = start | {"method": method}
            too_large = method in ("scs", "clarabel", "scs_proved") and variables > chosen.variables
            elsewhere = chosen.device != "cpu" and method not in OURS
            if done(row) or too_large or elsewhere:
                continue
            limit = chosen.limit * (PATIENCE if network.neurons > LARGE else 1)
            found = _outcome(method, weights, sample, about.get("budget"), limit, chosen)
            values = {k: found.values.get(k) for k in ("bound", "proof", "lower", "gap")}
            yield row | values | {
                "status": found.status, "seconds": found.seconds, "peak_mb": found.peak, "limit": limit,
                "variables": variables, "known": sample.optimum, "accuracy": sample.accuracy,
            }  # fmt: skip


def _outcome(
    method: str, weights: Path, sample: Sample, budget: float | None, limit: float, chosen: argparse.Namespace
) -> Outcome:
    work: Callable[..., dict[str, Any]]
    arguments: tuple[object, ...] = ()
    if method in PRESETS:
        settings = PRESETS[method].to_dict() | ({} if budget is None else {"max_seconds": budget})
        work, arguments = certify, (settings, None, None, chosen.device)
    elif method in ("scs", "clarabel"):
        work, arguments = lipsdp, (method.upper(),)
    elif method in ("eclipse", "eclipse_fast"):
        work, arguments = eclipse, ({"eclipse": "ECLipsE", "eclipse_fast": "ECLipsE_Fast"}[method],)
    elif method == "lower":
        work, arguments = lower, (chosen.ascent if budget is None else budget,)
    else:
        work = {"product": product, "gram": gram_product, "liplt": liplt}[method]
    return measure(work, weights, sample.input_shape, *arguments, limit=limit, threads=chosen.threads)


def _epochs(chosen: argparse.Namespace, done: Done, note: Callable[[str], None]) -> Iterator[Row]:
    row = {"part": "epochs", "network": "CNN1", "method": "cold", "device": chosen.device}
    if not MNIST.is_dir():
        note(f"No MNIST in {MNIST} (LIPGUARD_MNIST): no curves over epochs.")
    elif chosen.only.lower() in "cnn1" and not done(row):
        found = measure(each_epoch, EPOCHS, chosen.device, limit=EPOCHS * chosen.limit, threads=chosen.threads)
        yield row | {"status": found.status, "seconds": found.seconds} | found.values


PARTS = {"table": _table, "sizes": _sizes, "anytime": _anytime, "epochs": _epochs}
