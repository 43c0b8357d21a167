"""The examples run as a user runs them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def output(name: str, folder: Path) -> tuple[str, str]:
    command = [sys.executable, str(EXAMPLES / name)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout, run.stderr


def test_own_trainer(tmp_path: Path) -> None:
    printed, errors = output("own_trainer.py", tmp_path)
    rows = re.findall(r"epoch (\d): ([\d.]+) <= L <= ([\d.]+) \(norm product ([\d.]+)\)", printed)
    assert [row[0] for row in rows] == list("01234")
    for lower, bound, product in (map(float, row[1:]) for row in rows):
        assert 0 < lower <= bound <= product
    assert Path(printed.split("smallest bound: ")[1].strip()).is_file()
    assert "LipschitzMonitor: The" not in errors  # no failed estimate


@pytest.mark.slow  # the next one trains with its penalty, too
def test_penalty(tmp_path: Path) -> None:
    printed, _ = output("penalty.py", tmp_path)
    rows = re.findall(r"lam ([\d.]+): bound ([\d.]+), accuracy ([\d.]+), certified within 0.25: ([\d.]+)", printed)
    bounds, accuracies, certified = (list(map(float, column)) for column in list(zip(*rows, strict=True))[1:])
    assert bounds == sorted(bounds, reverse=True)
    assert min(accuracies) > 0.85
    assert certified[1] > certified[0]


@pytest.mark.slow  # what it shows, `select`, is tested with its command, too
def test_select_checkpoint(tmp_path: Path) -> None:
    printed, _ = output("select_checkpoint.py", tmp_path)
    chosen = re.findall(r"chosen, and proved again: (\S+)", printed)
    assert len(chosen) == 2
    assert all((tmp_path / path).is_file() for path in chosen)
    assert "rule: the highest certified accuracy at 0.25" in printed


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the package wandb is not installed")
def test_wandb(tmp_path: Path) -> None:
    printed, _ = output("wandb_offline.py", tmp_path)
    assert re.search(r"smallest bound: [\d.]+", printed)
    assert list(tmp_path.rglob("*.wandb"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="the package optuna is not installed")
def test_optuna(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "optuna_search.py"), "3"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    assert re.search(r"lam [\d.]+: accuracy [\d.]+, certified [\d.]+", run.stdout)
