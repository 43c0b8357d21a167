"""What a run did, epoch by epoch: accuracy beside the bounds of the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl

from lipguard.app.classifier.models import ACCURACY
from lipguard.callbacks.rows import OF_BOUNDS, Row

_STYLES = {"tightness": ".3f", "seconds": ".2f"}
# column of the table, key of the row, how a number is written
_COLUMNS = (
    ("epoch", "epoch", "d"),
    ("accuracy", "accuracy", ".4f"),
    *((key.name.replace("_", " "), key.name, _STYLES.get(key.name, ".4f")) for key in OF_BOUNDS),
    ("status", "status", ""),
)


class AccuracyHistory(pl.Callback):
    """Remembers the validation accuracy of every epoch, also across a resumed run."""

    def __init__(self) -> None:
        self.accuracy: dict[int, float] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation came before, so its value is of this epoch's weights."""
        if ACCURACY in trainer.callback_metrics:
            self.accuracy[trainer.current_epoch] = float(trainer.callback_metrics[ACCURACY])

    def state_dict(self) -> dict[str, Any]:
        """Plain values, which a checkpoint can hold."""
        return {"accuracy": dict(self.accuracy)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.accuracy = dict(state_dict["accuracy"])


def merged_history(bounds: Sequence[Mapping[str, Any]], accuracy: Mapping[int, float]) -> list[Row]:
    """One row per epoch that has a bound or an accuracy, in order of epochs."""
    rows: dict[int, Row] = {epoch: {"epoch": epoch, "accuracy": value} for epoch, value in accuracy.items()}
    for row in bounds:
        rows.setdefault(row["epoch"], {}).update(row)
    return [rows[epoch] for epoch in sorted(rows)]


def epoch_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as aligned text; a column that no row has is left out, a value that is missing is a dash."""
    columns = [column for column in _COLUMNS if any(row.get(column[1]) is not None for row in rows)]
    cells = [[title for title, _, _ in columns]]
    cells += [[_cell(row.get(key), style) for _, key, style in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in cells)


def _cell(value: Any, style: str) -> str:
    if value is None:
        return "-"
    # A status may go on with its reason, which the monitor has warned of already.
    return value.partition(":")[0] if isinstance(value, str) else format(value, style)
