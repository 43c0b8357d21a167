"""The tables and figures of docs/benchmarks.md and README.md, from the file of an earlier run of `methods --json`.

Without `--docs` the tables are printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..reporting.pages import text, write


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study."""
    parser.add_argument("results", type=Path, help="docs/benchmarks.json, or another file of `methods --json`")
    parser.add_argument("--docs", type=Path, help="the project's folder, whose README.md and docs/ get the tables")


def run(chosen: argparse.Namespace) -> None:
    """Print the tables, or write them and draw the figures."""
    results = json.loads(chosen.results.read_text())
    if chosen.docs is None:
        print(text(results))
    else:
        write(results, chosen.docs)
