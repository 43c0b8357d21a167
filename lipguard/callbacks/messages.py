"""What a monitor says, every message once."""

from __future__ import annotations

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn


class Messages:
    """Messages of the process of rank zero, with the name of who says them.

    Args:
        name: of the monitor's class.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._said: set[str] = set()

    def tell(self, message: str) -> None:
        """For the log."""
        if self._is_new(message):
            rank_zero_info(f"{self.name}: {message}")

    def warn(self, message: str) -> None:
        """A warning."""
        if self._is_new(message):
            rank_zero_warn(f"{self.name}: {message}")

    def _is_new(self, message: str) -> bool:
        new = message not in self._said
        self._said.add(message)
        return new
