"""Who imports whom: the pictures and tables of docs/architecture.md and docs/soundness.md, read from the source.

Without `--docs` they are printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..reporting.architecture import pages
from ..reporting.markdown import filled


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study."""
    parser.add_argument("--docs", type=Path, help="the project's folder, whose docs are written anew")


def run(chosen: argparse.Namespace) -> None:
    """Print them, or write the pages."""
    if chosen.docs is None:
        print("\n\n".join(table for tables in pages().values() for table in tables.values()))
        return
    for name, tables in pages().items():
        page = chosen.docs / "docs" / name
        page.write_text(filled(page.read_text(), tables))
