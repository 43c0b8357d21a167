"""TensorBoard: a layout of curves that belong together, and figures."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from lipguard.callbacks.loggers.logger import Logger
from lipguard.callbacks.recomputed import Curve
from lipguard.callbacks.rows import BOUND, CERTIFIED, LOWER_BOUND, PRODUCT_BOUND, Key
from lipguard.trusted.certificate.certificate import Certificate

_CURVES = {"bounds": (BOUND, PRODUCT_BOUND, LOWER_BOUND), "certified accuracy": (CERTIFIED,)}


class TensorBoard(Logger):
    """Curves on the page of custom scalars, and two figures."""

    def prepare(self, keys: Mapping[str, Key]) -> None:
        """A layout of those curves of which there are any."""
        layout = {}
        for title, drawn in _CURVES.items():
            names = [f"{self.prefix}/{name}" for name, key in keys.items() if key in drawn]
            if names:
                layout[title] = ["Multiline", names]
        self.experiment.add_custom_scalars({"Lipschitz": layout})

    def show(self, step: int, history: Sequence[Mapping[str, Any]], curve: Curve | None) -> None:
        """Bounds and accuracy by epoch, certified accuracy by radius; nothing where matplotlib is not installed."""
        if not history or importlib.util.find_spec("matplotlib") is None:
            return
        from lipguard.figures.history import plot_certified_accuracy, plot_history

        self.experiment.add_figure(f"{self.prefix}/accuracy_and_bounds", plot_history(history), step)
        if curve is not None:
            self.experiment.add_figure(f"{self.prefix}/certified_accuracy", plot_certified_accuracy(*curve), step)

    def keep(self, certificate: Certificate) -> None:
        """Nothing: it holds no files."""
