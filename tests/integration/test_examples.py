"""The examples run as a user runs them."""

from __future__ import annotations

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import LIGHTNING_WARNINGS

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


def numbers(name: str, capsys: pytest.CaptureFixture[str], pattern: str) -> list[tuple[float, ...]]:
    """What an example prints, run in this process."""
    torch.manual_seed(0)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    found = re.findall(pattern, capsys.readouterr().out)
    return [tuple(map(float, row if isinstance(row, tuple) else (row,))) for row in found]


@LIGHTNING_WARNINGS
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*smaller than the logging interval")
def test_gan_critic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    rows = numbers("gan_critic.py", capsys, r"epoch (\d): critic ([\d.]+) <= L <= ([\d.]+)")
    assert [row[0] for row in rows] == [0, 1, 2, 3]
    assert all(0 < lower <= bound for _, lower, bound in rows)


def test_q_network(capsys: pytest.CaptureFixture[str]) -> None:
    (state, action) = numbers("q_network.py", capsys, r": +([\d.]+) <= L <= ([\d.]+)")
    assert 0 < state[0] <= state[1]
    assert 0.9 < action[0] <= action[1]  # of a distance, whose slope is one


def test_dynamics(capsys: pytest.CaptureFixture[str]) -> None:
    ((lower, bound),) = numbers("dynamics.py", capsys, r"([\d.]+) <= L <= ([\d.]+)")
    assert 0.9 < lower <= bound < 3


def test_flow(capsys: pytest.CaptureFixture[str]) -> None:
    ((smallest, bound),) = numbers("flow.py", capsys, r"becomes ([\d.]+) to ([\d.]+) times")
    assert 0 < smallest < 1 < bound < 1.9**3


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
