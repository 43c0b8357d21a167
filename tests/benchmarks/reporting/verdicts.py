"""Where lipguard is not the best, what others report falsely, and how time grows: sentences and small tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ..measuring.rows import NAMES, OURS, Row
from .cells import TIGHT, Cells
from .markdown import markdown

TINY = 100  # neurons: below, nobody waits for any method
NEAR = 1.01  # times the tightest
LIPSDP = ("scs", "clarabel", "eclipse", "eclipse_fast")  # of whose problem the relaxation's value is a lower bound
FALSE = 1e-3  # relative to that value; less is a matter of tolerance


def verdicts(rows: Sequence[Row]) -> Iterator[str]:
    """Where lipguard's default is not the tightest, or not the fastest of the tightest; and on how many it is."""
    cells = Cells(rows)
    tight = fast = total = timed = 0
    for name, about in cells.networks.items():
        own = {m: row for m, row in cells.done(name).items() if m != "lower"}
        if "cold" not in own:
            continue
        total += 1
        mine, best = own["cold"], cells.tightest(name)
        if mine["bound"] <= best * TIGHT:
            tight += 1
        else:
            who = min(own, key=lambda m: own[m]["bound"])
            yield f"{name}: {NAMES[who]} has {best:.5g}, lipguard {mine['bound']:.5g}."
        rivals = {m: row["seconds"] for m, row in own.items() if row["bound"] <= best * NEAR and m not in OURS}
        slower = min(rivals, key=lambda m: rivals[m], default=None)
        if about["neurons"] < TINY:
            continue
        timed += 1
        if slower is None or mine["seconds"] <= rivals[slower]:
            fast += 1
        else:
            yield f"{name}: {NAMES[slower]} takes {rivals[slower]:.2f} s, lipguard {mine['seconds']:.2f} s."
    yield f"lipguard's default is the tightest, or within 0.5 % of it, on {tight} of {total} networks."
    yield f"It is the fastest of those within 1 % of the tightest on {fast} of the {timed} with {TINY} neurons or more."


def too_small(rows: Sequence[Row]) -> Iterator[str]:
    """What solvers of LipSDP report below its optimum, which is at least the value of lipguard's relaxation."""
    own = {(row["part"], row["network"]): row for row in rows if row["method"] == "cold" and row.get("gap") is not None}
    for row in rows:
        mine = own.get((row["part"], row["network"]))
        if mine is None or row["method"] not in LIPSDP or row["status"] != "done" or math.isnan(mine["gap"]):
            continue
        value = mine["bound"] / (1 + mine["gap"])
        if row["bound"] < value * (1 - FALSE):
            yield (
                f"{row['network']}: {NAMES[row['method']]} reports {row['bound']:.4g}; LipSDP's optimum is between "
                f"{value:.5g} and {mine['bound']:.5g}."
            )


def exponents(rows: Sequence[Row]) -> str:
    """Of seconds in LMI variables, over the larger half of what each method did; and its last network."""
    lines = [["family", "method", "networks", "largest, LMI variables", "its seconds", "seconds ~ variables^"]]
    for family, method in dict.fromkeys((row["family"], row["method"]) for row in rows):
        own = sorted(
            (row for row in rows if (row["family"], row["method"]) == (family, method) and row["status"] == "done"),
            key=lambda row: row["variables"],
        )
        if own:
            last = own[-1]
            lines.append([
                family, NAMES[method], str(len(own)), f"{last['variables']:,}", f"{last['seconds']:.2f}",
                f"{_exponent(own):.2f}",
            ])  # fmt: skip
    return markdown(lines)


def _exponent(rows: Sequence[Row]) -> float:
    half = rows[len(rows) // 2 - (len(rows) < 4) :] if len(rows) > 1 else []
    points = {row["variables"]: row["seconds"] for row in half}
    if len(points) < 2:
        return math.nan
    sizes, seconds = np.log(np.array(list(points.items()), dtype=float)).T
    return float(np.polyfit(sizes, seconds, 1)[0])


def over_epochs(row: Row) -> str:
    """Cold beside warm, and what a warm certificate adds to an epoch."""
    lines = [["epoch", "accuracy", "lower bound", "cold", "warm", "product", "training s", "cold s", "warm s"]]
    for k, epoch in enumerate(row["epochs"]):
        lines.append([
            str(k), f"{epoch['accuracy']:.3f}", *(f"{epoch[x]:.4g}" for x in ("lower", "cold", "warm", "product")),
            *(f"{epoch[x]:.2f}" for x in ("training", "cold seconds", "warm seconds")),
        ])  # fmt: skip
    total = {x: sum(epoch[x] for epoch in row["epochs"]) for x in ("training", "cold seconds", "warm seconds")}
    shares = {x: 100 * total[f"{x} seconds"] / total["training"] for x in ("cold", "warm")}
    return (
        f"{markdown(lines)}\n\nIn units of training: cold certificates {shares['cold']:.0f} %, "
        f"warm ones {shares['warm']:.0f} %."
    )


def devices(rows: Iterable[Row], here: Iterable[Row]) -> str:
    """Bounds and absolute times of lipguard elsewhere, beside those of the CPU of the other tables."""
    known = {(row["network"], row["method"]): row for row in here}
    lines = [["device", "network", "neurons", "preset", "bound", "seconds", "on the CPU: bound", "seconds"]]
    for row in rows:
        beside = known.get((row["network"], row["method"]))
        lines.append([
            row["device name"], row["network"], f"{row['neurons']:,}", NAMES[row["method"]],
            *_came_to(row), *(_came_to(beside) if beside else ["", ""]),
        ])  # fmt: skip
    return markdown(lines)


def _came_to(row: Row) -> list[str]:
    done = row["status"] == "done"
    return [f"{row['bound']:.5g}" if done else "-", f"{row['seconds']:.2f}" if done else row["status"]]
