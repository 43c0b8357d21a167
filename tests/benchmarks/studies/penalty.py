"""Penalties side by side: CNN1 on MNIST, each trained with several weights of its penalty, over several seeds.

    python tests/benchmarks/penalty.py [--seeds 0 1 2] [--epochs 8] [--json PATH] [--plot PATH]

- none: cross entropy alone
- relaxation: cross entropy + lam * LipschitzPenalty (the value of LipSDP's relaxation)
- relaxation, every 2: the same in every second step, twice as large
- norm product: cross entropy + lam * the product of the layers' spectral norms, each by a step of power iteration
- weight decay: AdamW

Certified accuracy is on the last 1,000 images, in l2: by sqrt(2) times the bound, and by certified margins.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

import lipguard
from lipguard import CertifiedAccuracy, LipschitzPenalty
from lipguard.certifying.margins import needed_pairs

from ..networks import training

SHAPE = (1, 28, 28)
RADII = (0.1, 0.25, 0.5)
GRID = {
    "none": (0.0,),
    "relaxation": (0.001, 0.01, 0.03, 0.1),
    "relaxation, every 2": (0.01, 0.03),
    "norm product": (0.0003, 0.001, 0.003, 0.01, 0.03),
    "weight decay": (0.1, 0.5, 1.0, 2.0),
}


class NormProduct:
    """The product of the layers' spectral norms, each on the input that it sees, by one step of power iteration."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        self.layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        self.x: list[Tensor] = []
        seen: list[Tensor] = []
        hooks = [m.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for m in self.layers]
        with torch.no_grad():
            model(torch.zeros(1, *shape))
        for hook in hooks:
            hook.remove()
        self.x = [torch.randn_like(v) for v in seen]
        for _ in range(20):
            self()

    def __call__(self) -> Tensor:
        product = torch.ones(())
        for k, layer in enumerate(self.layers):
            x = self.x[k].requires_grad_()
            y = self._linear(layer, x)
            (x,) = torch.autograd.grad(y, x, y.detach())
            self.x[k] = x.detach() / x.norm()
            product = product * self._linear(layer, self.x[k]).norm()
        return product

    @staticmethod
    def _linear(layer: nn.Module, x: Tensor) -> Tensor:
        if isinstance(layer, nn.Conv2d):
            return nn.functional.conv2d(x, layer.weight, None, layer.stride, layer.padding)
        return nn.functional.linear(x, layer.weight)  # type: ignore[arg-type]


def run(kind: str, lam: float, seed: int, epochs: int, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Train one network, and certify it."""
    torch.manual_seed(seed)
    model = training.cnn1()
    decay = lam if kind == "weight decay" else 0.0
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=decay)
    penalty: Callable[[], Tensor] | None = None
    if kind.startswith("relaxation"):
        penalty = LipschitzPenalty(model, SHAPE, every=2 if "2" in kind else 1)
    elif kind == "norm product":
        penalty = NormProduct(model, SHAPE)
    order = torch.Generator().manual_seed(seed)
    seconds = []
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(training.TRAINED_ON, generator=order), 64):
            began = time.perf_counter()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            if penalty is not None:
                loss = loss + lam * penalty()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            seconds.append(time.perf_counter() - began)
    return {"kind": kind, "lam": lam, "seed": seed, "ms": 1e3 * mean(seconds)} | measured(
        model.eval(), images[training.TRAINED_ON :], labels[training.TRAINED_ON :]
    )


def measured(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracy, bound, certified accuracy."""
    report = lipguard.certify(model, SHAPE)
    with torch.no_grad():
        logits = model(images)
    pairs = needed_pairs(logits)
    margins = lipguard.certify_margins(model, SHAPE, report, pairs=pairs, max_seconds=20.0)
    found: dict[str, Any] = {"bound": report.bound, "product": report.product_bound}
    for name, given in (("by bound", {"bound": report.bound}), ("by margins", {"margins": margins})):
        metric = CertifiedAccuracy(RADII, 10)
        metric.update(logits, labels, **given)  # type: ignore[arg-type]
        found |= {"accuracy": float(metric.accuracy()), name: metric.compute().tolist()}
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds."""
    lines = [
        "| penalty | lam | accuracy | bound | certified at 0.1 / 0.25 / 0.5, by the bound | by margins | ms per step |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, lam in dict.fromkeys((row["kind"], row["lam"]) for row in rows):
        own = [row for row in rows if (row["kind"], row["lam"]) == (kind, lam)]
        shares = [
            " / ".join(f"{mean(row[name][k] for row in own):.3f}" for k in range(len(RADII)))
            for name in ("by bound", "by margins")
        ]
        lines.append(
            f"| {kind} | {lam:g} | {mean(row['accuracy'] for row in own):.4f} | {mean(r['bound'] for r in own):.2f} "
            f"| {shares[0]} | {shares[1]} | {mean(row['ms'] for row in own):.1f} |"
        )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against certified accuracy at 0.25, a curve per penalty, a dot per network."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] in (kind, "none")]
        lams = sorted({row["lam"] for row in own})
        means = [
            (
                mean(row["accuracy"] for row in own if row["lam"] == lam),
                mean(row["by margins"][1] for row in own if row["lam"] == lam),
            )
            for lam in lams
        ]
        (line,) = axes.plot(*zip(*means, strict=True), "o-", label=kind)
        axes.plot(
            [r["accuracy"] for r in own], [r["by margins"][1] for r in own], ".", color=line.get_color(), alpha=0.4
        )
    axes.set_xlabel("accuracy")
    axes.set_ylabel("certified accuracy within 0.25 (l2)")
    axes.legend(title="penalty")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train and certify the grid; print a row per run, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--only", default="", help="penalties whose name contains this")
    parser.add_argument("--json", type=Path, help="write all rows there")
    parser.add_argument("--plot", type=Path, help="write the figure there")
    chosen = parser.parse_args()
    images, labels = training.mnist()
    rows: list[dict[str, Any]] = []
    for seed in chosen.seeds:
        for kind, lams in ((k, v) for k, v in GRID.items() if chosen.only in k):
            for lam in lams:
                rows.append(run(kind, lam, seed, chosen.epochs, images, labels))
                print(rows[-1], flush=True)
                if chosen.json:
                    chosen.json.write_text(json.dumps(rows))
    print(table(rows))
    if chosen.plot:
        plot(rows, chosen.plot)


if __name__ == "__main__":
    main()
