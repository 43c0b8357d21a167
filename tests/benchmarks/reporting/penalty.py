"""Penalties side by side: the table of means and the figure."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

RADII = (0.1, 0.25, 0.5)


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
