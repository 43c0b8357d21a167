"""Whether two checkouts give the same results: bounds, proofs, plans and multipliers, bit by bit.

Certifies sixty networks in eight ways in each of two folders that hold a package `lipguard`, one process each, and
prints what differs. A change that only moves code changes nothing here. The exit code is 1 where something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).resolve().parents[1] / "measuring" / "results.py"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study."""
    here = PROGRAM.parents[3]
    parser.add_argument("other", help="a folder that holds a package lipguard")
    parser.add_argument("this", nargs="?", default=str(here), help="the other one; this checkout by default")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--keep", help="a file that holds the first folder's results, or takes them up")


def run(chosen: argparse.Namespace) -> int:
    """Compare."""
    kept = Path(chosen.keep) if chosen.keep else None
    with tempfile.TemporaryDirectory() as temporary:
        cache = temporary if kept is None else str(kept.with_suffix(".cache"))  # one model of this machine for both
        if kept is not None and kept.exists():
            before = json.loads(kept.read_text())
        else:
            before = _run(Path(chosen.other), cache, chosen.only)
        if kept is not None:
            kept.write_text(json.dumps(before))
        after = _run(Path(chosen.this), cache, chosen.only)
    differing = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
    for name in differing:
        one, other = before.get(name) or {}, after.get(name) or {}
        for key in sorted(one | other):
            if one.get(key) != other.get(key):
                print(f"{name}: {key}: {one.get(key)!r} -> {other.get(key)!r}")
    print(f"{len(after)} results of {len({name.split(' | ')[0] for name in after})} networks: {len(differing)} differ")
    return int(bool(differing))


def _run(folder: Path, cache: str, only: str) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(folder), "LIPGUARD_CACHE": cache, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(PROGRAM), only]  # without the program's own folder in the path
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return dict(json.loads(line) for line in done.stdout.splitlines())
