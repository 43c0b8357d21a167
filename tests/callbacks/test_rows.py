"""The table of keys: what the docs say of it, how its values are rounded, and the rows that they are read from."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import lipguard
from lipguard.callbacks.rows import BOUND, KEYS, LOWER_BOUND, OF_BOUNDS, failed, of_validation, values_of
from lipguard.certifying.status import Outcome, Status

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_docs_hold_the_table() -> None:
    lines = ["| key | what it is | unit | rounded | better |", "| --- | --- | --- | --- | --- |"]
    for key in KEYS:
        name = f"{key.name}e" if key.family else key.name
        lines.append(f"| `lipschitz/{name}` | {key.meaning} | {key.unit} | {key.rounded} | {key.better or '-'} |")
    table = "\n".join(lines)
    assert table in DOCS.read_text(), f"docs/training.md lacks this table:\n{table}"


def test_the_docstring_of_the_monitor_names_every_key() -> None:
    text = lipguard.LipschitzMonitor.__doc__ or ""
    for key in KEYS:
        assert f"``<prefix>/{key.name}{'<e>' if key.family else ''}``" in text


def test_names_are_unique_and_found_again() -> None:
    names = [name for key in KEYS for name in key.names((0.1, 0.25))]
    assert len(set(names)) == len(names)
    others = ["epoch", "accuracy", "margin_seconds", "bound", "estimate", "selections"]
    found = of_validation([*names, *others])
    assert list(found) == [
        "average_certified_radius", "certified_accuracy_eps_0.1", "certified_accuracy_eps_0.25", "selection",
    ]  # fmt: skip
    assert all(name in key.names((0.1, 0.25)) for name, key in found.items())


@pytest.mark.parametrize("value", [0.1, 9.7, 1 / 3, 1e-50, 3.0, 0.0])
def test_values_are_narrowed_the_safe_way(value: float) -> None:
    up, down = BOUND.narrowed(value), LOWER_BOUND.narrowed(value)
    assert down <= value <= up
    assert torch.tensor([up, down]).tolist() == [up, down]  # float32 keeps them


@pytest.mark.parametrize("value", [math.inf, 1e39])
@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_values_beyond_float32_are_left(key: lipguard.callbacks.rows.Key, value: float) -> None:
    assert key.narrowed(value) == value


def test_a_bound_errs_upward_and_what_is_better_larger_downward() -> None:
    for key in KEYS:
        if key.better == "larger":
            assert key.rounded == "down", key.name
    assert {key.name for key in KEYS if key.rounded == "up"} == {"bound", "product_bound", "selection"}


def test_rows_hold_plain_values_of_the_same_keys() -> None:
    report = lipguard.certify(nn.Linear(2, 2), (2,))
    rows = [values_of(report, report.status), failed("MemoryError: full", 0.5)]
    assert list(rows[0]) == list(rows[1]) == [*(key.name for key in OF_BOUNDS), "status", "digest"]
    assert {type(value) for row in rows for value in row.values()} == {float, str, type(None)}
    assert [row["status"] for row in rows] == ["complete", "failed: MemoryError: full"]
    assert values_of(report, Status(Outcome.FALLBACK, "no memory"))["status"] == "fallback: no memory"


def test_what_is_the_better_the_smaller_is_never_rounded_down() -> None:
    """Nor is what is the better the larger rounded up: a number that is logged promises no more than is known."""
    for key in KEYS:
        assert (key.better, key.rounded) not in {("smaller", "down"), ("larger", "up")}
