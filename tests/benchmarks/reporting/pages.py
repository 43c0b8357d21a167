"""What a run came to: tables, figures and verdicts, from its rows alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..measuring.rows import LARGE, NAMES, OURS, PATIENCE, Row
from ..networks import table as networks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TINY = 100  # neurons: below, nobody waits for any method
TIGHT, NEAR = 1.005, 1.01  # times the tightest
LIPSDP = ("scs", "clarabel", "eclipse", "eclipse_fast")  # of whose problem the relaxation's value is a lower bound
FALSE = 1e-3  # relative to that value; less is a matter of tolerance
BOUNDS = [name for name in NAMES if name != "lower"]
README = ("product", "liplt", "eclipse_fast", "scs", "cold")
COLOURS = {
    "cold": "#b3401f", "strict": "#e08a6d", "quick": "#c9653f", "dcp": "#7a5195", "scs": "#1b6ca8",
    "clarabel": "#4fa3d1", "liplt": "#3a7d44", "eclipse": "#8a8a2f",
    "eclipse_fast": "#b5a642", "product": "#6b6b6b", "gram": "#a0a0a0",
    "scs_proved": "#1b6ca8", "lower": "#000000",
}  # fmt: skip
MARKS = dict(zip(BOUNDS, "ovs^D<>pPX*h", strict=False))
PUBLISHED = (  # (neurons, seconds, what): as reported, on the machines of their authors
    (4_930, 864.0, "DCP's paper, CNN1"),
    (37_632, 4.3, "GLipSDP's paper, cnn_C5_CH16"),
)


def text(results: dict[str, Any]) -> str:
    """Every table there are rows for."""
    parts = [_about(results["about"]), *(f"**{title}**\n\n{table}" for title, table in _tables(results).items())]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in results["notes"])])


def write(results: dict[str, Any], root: Path) -> None:
    """Tables between the markers of docs/benchmarks.md and README.md, figures beside them."""
    rows = _on_cpu(results)
    tables = _tables(results) | {"About": _about(results["about"]), "Field": field(rows)}
    for page in (root / "docs" / "benchmarks.md", root / "README.md"):
        page.write_text(filled(page.read_text(), tables))
    for name, draw in (("benchmarks", overview), ("anytime", anytime), ("sizes", sizes), ("epochs", epochs)):
        figure = draw(rows)
        if figure is not None:
            figure.savefig(root / "docs" / f"{name}.png", dpi=150)


def filled(page: str, tables: dict[str, str]) -> str:
    """The page with every table between its markers, `<!-- table: NAME -->` and `<!-- end -->`."""

    def fill(found: re.Match[str]) -> str:
        name = found.group(1)
        return f"<!-- table: {name} -->\n\n{tables[name]}\n\n<!-- end -->" if name in tables else found.group(0)

    return re.sub(r"<!-- table: ([^>]+) -->.*?<!-- end -->", fill, page, flags=re.DOTALL)


def _about(about: dict[str, Any]) -> str:
    return (
        f"{about['machine']}, {about['threads']} threads, torch {about['torch']}, at most {about['limit']:g} s per "
        f"method, {about['limit'] * PATIENCE:g} s on more than {LARGE:,} neurons."
    )


def _on_cpu(results: dict[str, Any]) -> list[Row]:
    return [row for row in results["rows"] if row["device"] == "cpu"]


def _tables(results: dict[str, Any]) -> dict[str, str]:
    rows = _on_cpu(results)
    found = {}
    table = [row for row in rows if row["part"] == "table"]
    if table:
        found |= {
            "Bound": grid(table, _bound),
            "Ratio to the lower bound": grid(table, _ratio),
            "Seconds": grid(table, _seconds),
            "Peak memory, MB": grid(table, _memory),
            "Verdict": "\n".join(f"- {line}" for line in verdicts(table)),
        }
    if any(row["part"] in ("table", "sizes") for row in rows):
        found["False"] = "\n".join(f"- {line}" for line in too_small(rows)) or "- None."
    if any(row["part"] == "sizes" for row in rows):
        found["Exponents"] = exponents([row for row in rows if row["part"] == "sizes"])
    if any(row["part"] == "epochs" and row["status"] == "done" for row in rows):
        found["Epochs"] = over_epochs(next(row for row in rows if row["part"] == "epochs"))
    other = [row for row in results["rows"] if row["device"] != "cpu" and row["part"] == "table"]
    if other:
        found["Other devices"] = devices(other, table)
    return found


class _Cells:
    """Rows of the table by network and method."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = {(row["network"], row["method"]): row for row in rows}
        self.networks = {row["network"]: row for row in rows}
        self.methods = [m for m in NAMES if any(row["method"] == m for row in rows)]

    def done(self, network: str) -> dict[str, Row]:
        """By method, what came to an end."""
        own = {m: self.rows[network, m] for m in self.methods if (network, m) in self.rows}
        return {m: row for m, row in own.items() if row["status"] == "done"}

    def tightest(self, network: str) -> float:
        return min((row["bound"] for m, row in self.done(network).items() if m != "lower"), default=math.nan)

    def lower(self, network: str) -> float:
        """The largest that the ascent and lipguard's own search found."""
        own = self.done(network)
        found = [row["bound"] for m, row in own.items() if m == "lower"] + [row["lower"] or 0.0 for row in own.values()]
        return max(found, default=math.nan)


def grid(rows: Sequence[Row], cell: Callable[[_Cells, str, str], str]) -> str:
    """A row per network, a column per method."""
    cells = _Cells(rows)
    lines = [["network", "neurons", *(NAMES[m] for m in cells.methods)]]
    for name, row in cells.networks.items():
        entries = [_entry(cells, name, method, cell) for method in cells.methods]
        lines.append([name, f"{row['neurons']:,}", *entries])
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table of Markdown; its first line is the head."""
    head, *rest = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rest])


def _entry(cells: _Cells, name: str, method: str, cell: Callable[[_Cells, str, str], str]) -> str:
    row = cells.rows.get((name, method))
    if row is None:
        return ""
    if row["status"] == "done":
        return cell(cells, name, method)
    return f"> {row['limit']:g} s" if row["status"] == "timeout" else "-"


def _bound(cells: _Cells, name: str, method: str) -> str:
    if method == "lower":
        return f"{cells.lower(name):.5g}"
    bound = cells.rows[name, method]["bound"]
    return f"**{bound:.5g}**" if bound <= cells.tightest(name) * TIGHT else f"{bound:.5g}"


def _ratio(cells: _Cells, name: str, method: str) -> str:
    bound = cells.lower(name) if method == "lower" else cells.rows[name, method]["bound"]
    lower = cells.lower(name)
    return f"{bound / lower:.4g}" if lower > 0 else ""


def _seconds(cells: _Cells, name: str, method: str) -> str:
    return f"{cells.rows[name, method]['seconds']:.2f}"


def _memory(cells: _Cells, name: str, method: str) -> str:
    peak = cells.rows[name, method]["peak_mb"]
    return "-" if math.isnan(peak) else f"{peak:,.0f}"


def verdicts(rows: Sequence[Row]) -> Iterator[str]:
    """Where lipguard's default is not the tightest, or not the fastest of the tightest; and on how many it is."""
    cells = _Cells(rows)
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


def field(rows: Sequence[Row]) -> str:
    """The README's: a few networks and methods, bound and seconds in one cell."""
    cells = _Cells([row for row in rows if row["part"] == "table"])
    shown = ("fnn3 0, all", "cnn3 0, all", "CNN1", "cnn_C5_CH16", "ResNet-20", "ResNet-18, 32x32")
    lines = [["network", "neurons", "at least", *(NAMES[m] for m in README)]]
    for name in shown:
        if name in cells.networks:
            entries = [_entry(cells, name, m, _both) for m in README]
            lines.append([name, f"{cells.networks[name]['neurons']:,}", f"{cells.lower(name):.4g}", *entries])
    return markdown(lines)


def _both(cells: _Cells, name: str, method: str) -> str:
    shown = f"{cells.rows[name, method]['bound']:.4g}, {cells.rows[name, method]['seconds']:.3g} s"
    return f"**{shown}**" if method == "cold" else shown


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


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _plain(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def overview(rows: Sequence[Row]) -> Figure | None:
    """Bound, relative to lipguard's, against time: a mark per method and network."""
    cells = _Cells([row for row in rows if row["part"] == "table"])
    figure = _figure(8.4, 4.2)
    axes = figure.subplots()
    for method in BOUNDS:
        own = [cells.done(name) for name in cells.networks]
        points = [(o[method], o["cold"]) for o in own if method in o and "cold" in o]
        if points:
            axes.plot(
                [row["seconds"] for row, _ in points], [row["bound"] / base["bound"] for row, base in points],
                MARKS[method], color=COLOURS[method], label=NAMES[method], markersize=6, alpha=0.8,
                zorder=3 if method == "cold" else 2,
            )  # fmt: skip
    if not axes.lines:
        return None
    _plain(axes)
    axes.set_ylim(0.8, min(axes.get_ylim()[1], 30))
    axes.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.set_xlabel("seconds")
    axes.set_ylabel("bound / lipguard's")
    figure.legend(fontsize=8, loc="outside right upper", frameon=False)
    return figure


def anytime(rows: Sequence[Row]) -> Figure | None:
    """Bound against time, per network: curves of what can be stopped, marks of what cannot."""
    curves = [row for row in rows if row["part"] == "anytime" and row["status"] == "done"]
    names = list(dict.fromkeys(row["network"] for row in curves))
    if not names:
        return None
    cells = _Cells([row for row in rows if row["part"] == "table"])
    labels = NAMES | {"scs_proved": "LipSDP, SCS, proved by lipguard", "lower": "lower bound"}
    figure = _figure(3.2 * len(names), 4.2)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for method in dict.fromkeys(row["method"] for row in curves):
            own = sorted(
                (row["seconds"], row["bound"]) for row in curves if (row["network"], row["method"]) == (name, method)
            )
            if own:
                best = np.maximum.accumulate if method == "lower" else np.minimum.accumulate
                seconds, bounds = np.array(own).T
                line = ":" if method == "lower" else "-"
                axes.step(
                    seconds, best(bounds), line, where="post", marker=".", color=COLOURS[method], label=labels[method]
                )
        for method in ("product", "liplt", "eclipse", "eclipse_fast", "scs", "clarabel"):
            row = cells.done(name).get(method)
            if row is not None:
                axes.plot(
                    [row["seconds"]], [row["bound"]], MARKS[method], color=COLOURS[method], label=labels[method],
                    markersize=6,
                )  # fmt: skip
        _plain(axes)
        axes.set_yscale("linear")
        axes.set_ylim(bottom=0)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("seconds")
    figure.axes[0].set_ylabel("bound")
    _legend(figure, 4)
    return figure


def _legend(figure: Figure, columns: int) -> None:
    """One of all panels."""
    found = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }  # fmt: skip
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=columns, fontsize=8, frameon=False
    )


def sizes(rows: Sequence[Row]) -> Figure | None:
    """Seconds against LMI variables, a panel per family."""
    own = [row for row in rows if row["part"] == "sizes" and row["status"] == "done"]
    families = [family for family in networks.FAMILIES if any(row["family"] == family for row in own)]
    if not families:
        return None
    figure = _figure(3.2 * len(families), 4.0)
    for axes, family in zip(figure.subplots(1, len(families), sharey=True, squeeze=False)[0], families, strict=True):
        for method in dict.fromkeys(row["method"] for row in own):
            points = sorted(
                (row["variables"], row["seconds"]) for row in own if (row["family"], row["method"]) == (family, method)
            )
            if points:
                axes.plot(*np.array(points).T, ".-", color=COLOURS[method], label=NAMES[method])
        if family == "image":
            for neurons, seconds, what in PUBLISHED:
                axes.plot([neurons], [seconds], "x", color="#6b6b6b")
                axes.annotate(
                    what, (neurons, seconds), fontsize=7, textcoords="offset points", xytext=(-4, 6), ha="right"
                )
        _plain(axes)
        axes.set_title(networks.WHAT[family], fontsize=8)
        axes.set_xlabel("LMI variables")
    figure.axes[0].set_ylabel("seconds")
    _legend(figure, 4)
    return figure


def epochs(rows: Sequence[Row]) -> Figure | None:
    """Bounds over a training, and what they cost."""
    row = next((row for row in rows if row["part"] == "epochs" and row["status"] == "done"), None)
    if row is None:
        return None
    figure = _figure(8.0, 3.4)
    bounds, cost = figure.subplots(1, 2)
    numbers = range(len(row["epochs"]))
    shown = {"product": ("-", "product"), "cold": ("-", "scs"), "warm": ("--", "cold"), "lower": (":", "lower")}
    for name, (line, colour) in shown.items():
        bounds.plot(numbers, [epoch[name] for epoch in row["epochs"]], line, color=COLOURS[colour], label=name)
    for name, colour in (("training", "product"), ("cold seconds", "scs"), ("warm seconds", "cold")):
        seconds = [epoch[name] for epoch in row["epochs"]]
        cost.plot(numbers, seconds, ".-", color=COLOURS[colour], label=name.removesuffix(" seconds"))
    for axes, what in ((bounds, "bound"), (cost, "seconds")):
        axes.set_xlabel("epoch")
        axes.set_ylabel(what)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8, frameon=False)
        axes.grid(True, color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
