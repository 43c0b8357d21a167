"""Networks that others trained, and what is known of them: a folder with `load.py` and tables in its README.md."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def load(folder: Path) -> ModuleType:
    """The folder's `load.py`."""
    spec = importlib.util.spec_from_file_location("peers_load", folder / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def known(folder: Path, column: str, *keys: str) -> str | None:
    """What the README's table with this column says in the row that begins with `keys`."""
    header: list[str] = []
    for line in (folder / "README.md").read_text().splitlines():
        cells = [cell.strip(" *") for cell in line.split("|")[1:-1]]
        if not cells:
            header = []
        elif column in cells:
            header = cells
        elif header and tuple(cells[: len(keys)]) == keys:
            return cells[header.index(column)]
    return None
