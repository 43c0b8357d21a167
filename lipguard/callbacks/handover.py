"""What a monitor knows, brought back from processes that a trainer has started: their objects are copies."""

from __future__ import annotations

import os
import tempfile
import uuid
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class Handover:
    """A file from a process that trains to the one that started it.

    Pickled with its monitor it knows in which process it was made.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._path = Path(tempfile.gettempdir(), f"lipguard-{uuid.uuid4().hex}.pt")
        weakref.finalize(self, _remove, self._path, self._owner)

    def leave(self, state: Mapping[str, Any]) -> None:
        """Leave what is known for the process that started this one; nothing where this is that one."""
        if os.getpid() != self._owner:
            torch.save(dict(state), self._path)

    def take(self) -> dict[str, Any] | None:
        """What was left, once."""
        if os.getpid() != self._owner or not self._path.exists():
            return None
        try:
            found: dict[str, Any] = torch.load(self._path, weights_only=True)
        finally:
            _remove(self._path, self._owner)
        return found


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:
        path.unlink(missing_ok=True)
