from __future__ import annotations

import math

from lipguard.app.console.history import AccuracyHistory, epoch_table, merged_history

ROW = {"bound": 3.0, "product_bound": 30.5, "lower_bound": 1.25, "tightness": 0.41667, "seconds": 0.5, "status": "ok"}


def test_bounds_and_accuracy_are_joined_by_epoch() -> None:
    bounds = [{"epoch": 1, "bound": 9.0}, {"epoch": 1, "bound": 3.0}, {"epoch": 2, "bound": 4.0}]
    rows = merged_history(bounds, {0: 0.5, 1: 0.75})
    assert rows == [
        {"epoch": 0, "accuracy": 0.5},
        {"epoch": 1, "accuracy": 0.75, "bound": 3.0},  # the last one, at the end of the epoch
        {"epoch": 2, "bound": 4.0},
    ]


def test_table_is_aligned_and_rounds_as_columns_ask() -> None:
    rows = [{"epoch": 0, "accuracy": 0.5, **ROW}, {"epoch": 10, **ROW, "bound": math.inf, "status": "failed: because"}]
    assert epoch_table(rows).splitlines() == [
        "epoch  accuracy   bound  product bound  lower bound  tightness  seconds  status",
        "    0    0.5000  3.0000        30.5000       1.2500      0.417     0.50      ok",
        "   10         -     inf        30.5000       1.2500      0.417     0.50  failed",
    ]


def test_columns_that_no_epoch_has_are_left_out() -> None:
    assert epoch_table([{"epoch": 0, "accuracy": 1.0}]) == "epoch  accuracy\n    0    1.0000"


def test_accuracy_survives_a_checkpoint() -> None:
    history = AccuracyHistory()
    history.accuracy = {0: 0.5, 1: 0.75}
    resumed = AccuracyHistory()
    resumed.load_state_dict(history.state_dict())
    assert resumed.accuracy == history.accuracy
