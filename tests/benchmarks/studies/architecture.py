"""Who imports whom: the pictures and tables of docs/architecture.md, read from the source.

Without `--docs` they are printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..reporting.architecture import tables
from ..reporting.markdown import filled


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study."""
    parser.add_argument("--docs", type=Path, help="the project's folder, whose docs/architecture.md is written anew")


def run(chosen: argparse.Namespace) -> None:
    """Print them, or write the page."""
    if chosen.docs is None:
        print("\n\n".join(tables().values()))
        return
    page = chosen.docs / "docs" / "architecture.md"
    page.write_text(filled(page.read_text(), tables()))
