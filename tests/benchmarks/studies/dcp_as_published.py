"""DCP as published on networks trained by others, merge by merge, and on the paper's CNN1 trained on MNIST.

`--peers` is a folder with `load.py` (digits networks, trained by others) and `--mnist` one with IDX files; a part
whose folder is not given is left out. Every row is one certification with `DCPConfig.paper()` but for the
merge: sum is the published one, coverage and form are other merges of the same solves, each as it is, even above the
product of norms; certified is what the report says, never above the product; power is
`DCPConfig()`, the whole network in one LMI.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import nn

import lipguard
from lipguard import DCPConfig
from lipguard.app.classifier.models import Classifier
from lipguard.app.data.images import IdxData
from lipguard.planning.table import table

from ..networks import peers

CNN1: list[dict[str, Any]] = [
    {"kind": "conv", "channels": 5, "kernel": 5}, {"kind": "relu"}, {"kind": "conv", "channels": 5, "kernel": 5},
    {"kind": "relu"}, {"kind": "flatten"}, {"kind": "linear", "features": 50}, {"kind": "relu"},
    {"kind": "linear", "features": 10},
]  # fmt: skip
HEADER = (
    "network",
    "N_max",
    "tiles",
    "product",
    "sum",
    "coverage",
    "form",
    "certified",
    "power",
    "lower",
    "LipSDP",
    "s",
    "s power",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study."""
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--family", nargs="+", default=["cnn2", "cnn3"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--sizes", nargs="+", type=int, default=[300, 600], help="N_max for CNN1")


def run(chosen: argparse.Namespace) -> None:
    """Print the tables."""
    rows: list[tuple[str, ...]] = []
    if chosen.peers is not None:
        networks = peers.load(chosen.peers)
        for family in chosen.family:
            for seed in chosen.seeds:
                model, shape = networks.digits(family, seed)
                optimum = peers.known(chosen.peers, "LipSDP optimum, row 7", family, str(seed)) or "-"
                rows += _report(f"{family} {seed}", model, shape, [DCPConfig.paper().max_block_size], optimum)
    if chosen.mnist is not None:
        model, accuracy = _trained_cnn1(chosen.mnist)
        rows += _report(f"CNN1, accuracy {accuracy:.3f}", model, (1, 28, 28), chosen.sizes, "-")
    sys.stdout.write("\n".join(table(HEADER, rows)) + "\n")


def _report(
    name: str, model: nn.Module, shape: tuple[int, ...], sizes: list[int | None], optimum: str
) -> Iterator[tuple[str, ...]]:
    """One row per N_max: bounds of the whole network with the tiles merged in each way."""
    power = lipguard.certify(model, shape, DCPConfig())
    for size in sizes:
        # The tighter merges are by-products of the same solves.
        report = lipguard.certify(model, shape, DCPConfig.paper(merge="form", max_block_size=size))
        merged = {
            merge: _product(row[merge] or row["bound"] for row in report.rows)  # as it is, even above the product
            for merge in ("sum", "coverage", "form")
        }
        tiles = ", ".join(f"{row['tiles']} of {row['method'][6:]}" for row in report.rows if row["form"]) or "-"
        bounds = [report.product_bound, *merged.values(), report.bound, power.bound, report.lower_bound]
        seconds = [f"{one.seconds:.1f}" for one in (report, power)]
        yield name, str(size or "auto"), tiles, *(f"{value:.4f}" for value in bounds), optimum, *seconds


def _product(factors: Iterator[float]) -> float:
    product = 1.0
    for factor in factors:
        product *= factor
    return product


def _trained_cnn1(root: Path) -> tuple[nn.Module, float]:
    pl.seed_everything(0)
    model = Classifier(input_shape=[1, 28, 28], layers=CNN1, learning_rate=1e-3)
    trainer = pl.Trainer(
        max_epochs=8, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(model, IdxData(root=str(root)))
    return model.eval(), float(trainer.callback_metrics["val/accuracy"])
