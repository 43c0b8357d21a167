"""lipguard beside the methods of others, on the same weights, in one run.

Every method runs in a process of its own, on the same threads. Without `--all`: a few small networks and CNN1, some
minutes. With it: every network, families that grow, the bound against time and over epochs, hours. What the file of
`--json` already has is not measured again, so that a run can be interrupted; `--device cuda` adds lipguard's rows
there. The study `pages` makes the tables and figures of docs/benchmarks.md from that file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from ..measuring.rows import NAMES, PARTS, Row, measured
from ..reporting.pages import text

_KEY = ("part", "network", "method", "budget", "device")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study."""
    parser.add_argument("--all", action="store_true", help="every network and every part (hours)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="what to measure; without --all, only the table")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--limit", type=float, default=30.0, help="seconds per method; fifteen times that if large")
    parser.add_argument("--variables", type=int, default=700, help="the largest LMI that cvxpy is asked to solve")
    parser.add_argument("--ascent", type=float, default=5.0, help="seconds of the lower bound's search")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", type=_device, help="of lipguard's rows; 'cuda' measures only those")
    parser.add_argument("--networks", type=Path, help="keep the table's networks there, or take them from there")
    parser.add_argument("--json", type=Path, help="write the results there, as they come")


def run(chosen: argparse.Namespace) -> None:
    """Measure what is chosen, and print its tables."""
    chosen.parts = chosen.parts or (tuple(PARTS) if chosen.all else ("table",))
    print(text(_results(chosen)))


def _results(chosen: argparse.Namespace) -> dict[str, Any]:
    """All rows, printed and kept as they come."""
    torch.set_num_threads(chosen.threads)
    results: dict[str, Any] = {"about": _about(chosen), "notes": [], "rows": []}
    if chosen.json and chosen.json.exists():
        results = json.loads(chosen.json.read_text())
        differ = [k for k, v in _about(chosen).items() if results["about"].get(k) != v]
        if differ and chosen.device == "cpu":
            raise SystemExit(f"{chosen.json} was measured with another {', '.join(differ)}: give another file.")
    had = {_key(row) for row in results["rows"]}
    for row in measured(chosen, lambda row: _key(row) in had, results["notes"].append):
        results["rows"].append(row | ({} if chosen.device == "cpu" else {"device name": _device_name(chosen.device)}))
        print({k: v for k, v in row.items() if k in (*_KEY, "status", "bound", "seconds")}, flush=True)
        if chosen.json:
            whole = chosen.json.with_name(chosen.json.name + ".new")
            whole.write_text(json.dumps(results, indent=1))
            whole.replace(chosen.json)
    return results


def _device(name: str) -> str:
    if torch.device(name).type == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError(f"torch {torch.__version__} finds no device {name} here")
    return name


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device


def _key(row: Row) -> tuple[object, ...]:
    return tuple(row.get(name) for name in _KEY)


def _about(chosen: argparse.Namespace) -> dict[str, Any]:
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores", "threads": chosen.threads, "limit": chosen.limit,
        "torch": torch.__version__,
    }  # fmt: skip
