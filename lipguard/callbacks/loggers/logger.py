"""What a monitor leaves in one kind of logger beside scalars, which Lightning hands on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from lipguard.callbacks.recomputed import Curve
from lipguard.callbacks.rows import Key
from lipguard.trusted.certificate.certificate import Certificate


class Logger(ABC):
    """A logger of one kind. What it has no place for it does nothing for, and says so in its file.

    Args:
        experiment: what Lightning's logger writes to.
        prefix: of names.
    """

    def __init__(self, experiment: Any, prefix: str) -> None:
        self.experiment, self.prefix = experiment, prefix

    @abstractmethod
    def prepare(self, keys: Mapping[str, Key]) -> None:
        """Once per fit, before anything is logged.

        Args:
            keys: what will be logged with every bound, and of every validation, by name.
        """

    @abstractmethod
    def show(self, step: int, history: Sequence[Mapping[str, Any]], curve: Curve | None) -> None:
        """Figures of what is known so far.

        Args:
            step: of the training.
            history: rows of the monitor.
            curve: certified accuracy by radius, if there is any.
        """

    @abstractmethod
    def keep(self, certificate: Certificate) -> None:
        """The certificate of the last weights, at the end of a fit."""
