"""Penalties side by side: CNN1 on MNIST, each trained with several weights of its penalty, over several seeds.

- none: cross entropy alone
- relaxation: cross entropy + lam * LipschitzPenalty (the value of LipSDP's relaxation)
- relaxation, every 2: the same in every second step, twice as large
- norm product: cross entropy + lam * the product of the layers' spectral norms, each by a step of power iteration
- weight decay: AdamW

Certified accuracy is on the last 1,000 images, in l2: by sqrt(2) times the bound, and by certified clearances.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lipguard
from lipguard import CertifiedAccuracy
from lipguard.certifying.margins import needed_pairs

from ..networks.penalised import SHAPE, trained
from ..networks.training import TRAINED_ON, mnist
from ..reporting.penalty import RADII, plot, table

GRID = {
    "none": (0.0,),
    "relaxation": (0.001, 0.01, 0.03, 0.1),
    "relaxation, every 2": (0.01, 0.03),
    "norm product": (0.0003, 0.001, 0.003, 0.01, 0.03),
    "weight decay": (0.1, 0.5, 1.0, 2.0),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--only", default="", help="penalties whose name contains this")
    parser.add_argument("--json", type=Path, help="write all rows there")
    parser.add_argument("--plot", type=Path, help="write the figure there")


def run(chosen: argparse.Namespace) -> None:
    """Train and certify the grid; print a row per run, then the table."""
    images, labels = mnist()
    rows: list[dict[str, Any]] = []
    for seed in chosen.seeds:
        for kind, lams in ((k, v) for k, v in GRID.items() if chosen.only in k):
            for lam in lams:
                model, seconds = trained(kind, lam, seed, chosen.epochs, images, labels)
                row = {"kind": kind, "lam": lam, "seed": seed, "ms": 1e3 * seconds}
                rows.append(row | measured(model, images[TRAINED_ON:], labels[TRAINED_ON:]))
                print(rows[-1], flush=True)
                if chosen.json:
                    chosen.json.write_text(json.dumps(rows))
    print(table(rows))
    if chosen.plot:
        plot(rows, chosen.plot)


def measured(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracy, bound, certified accuracy."""
    report = lipguard.certify(model, SHAPE)
    with torch.no_grad():
        logits = model(images)
    pairs = needed_pairs(logits)
    clearances = lipguard.certify_margins(model, SHAPE, report, pairs=pairs, max_seconds=20.0)
    found: dict[str, Any] = {"bound": report.bound, "product": report.product_bound}
    for name, given in (("by bound", {"bound": report.bound}), ("by clearances", {"clearances": clearances})):
        metric = CertifiedAccuracy(RADII, 10)
        metric.update(logits, labels, **given)
        found |= {"accuracy": float(metric.accuracy()), name: metric.compute().tolist()}
    return found
