"""A run that is killed, at whatever moment, leaves what can be read, verified and resumed."""

from __future__ import annotations

import csv
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_training import LIGHTNING_WARNINGS, Tiny

import lipguard
from lipguard import Certificate

pytestmark = LIGHTNING_WARNINGS
HERE = Path(__file__).parent
EPOCHS = 400


def start(folder: Path, epochs: int) -> subprocess.Popen[str]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])
    }  # fmt: skip
    script = [sys.executable, str(HERE / "killed_training.py"), str(folder), str(epochs)]
    return subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed(folder: Path, delay: float) -> None:
    """Begin, or go on, and kill it so many seconds after the training has begun."""
    process = start(folder, EPOCHS)
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n", process.communicate()[1]
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was done before it was killed"


def assert_readable(folder: Path) -> int:
    """Logs, checkpoints and their certificates; returns the epochs that the last checkpoint has behind it."""
    for log in folder.glob("logs/*/metrics.csv"):
        with log.open() as file:
            *rows, _ = [*csv.DictReader(file), None]  # the last row may be cut short
        bounds = [float(row["lipschitz/bound"]) for row in rows[:-1] if row.get("lipschitz/bound")]
        assert all(0 < bound < math.inf for bound in bounds)
    for path in folder.glob("*.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        model = Tiny()
        model.load_state_dict(checkpoint["state_dict"])
        certificate = Certificate.from_checkpoint(path)
        assert lipguard.verify(certificate, model) == certificate.bound
    last = folder / "last.ckpt"
    return int(torch.load(last, weights_only=True)["epoch"]) + 1 if last.exists() else 0


@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path: Path, kills: int) -> None:
    draw = random.Random(0)
    done = 0
    for _ in range(kills):
        killed(tmp_path, draw.uniform(0.0, 0.6))
        now = assert_readable(tmp_path)
        assert now >= done
        done = now
        assert done < EPOCHS
    process = start(tmp_path, done + 3)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    epochs = [int(word) for word in output.splitlines()[-1].split()[1:]]
    assert epochs == list(range(done + 3))
    assert assert_readable(tmp_path) >= done + 3  # saved after the last epoch, a checkpoint counts the next one
