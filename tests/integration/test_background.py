"""Certificates in the background: with the epoch that they belong to, a bounded queue, and ends that do not hang."""

from __future__ import annotations

import math
import pickle
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from tiny_training import LIGHTNING_WARNINGS, Tiny, fit, trainer
from torch import nn

import lipguard
from lipguard import LipschitzMonitor

pytestmark = LIGHTNING_WARNINGS


class Weights(pl.Callback):
    """The weights at the end of every epoch."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.seen.append({name: value.clone() for name, value in module.state_dict().items()})


def bounds_of(weights: Weights) -> list[float]:
    found = []
    for state in weights.seen:
        model = Tiny()
        model.load_state_dict(state)
        found.append(lipguard.certify(model.net.eval(), (4,)).bound)
    return found


def test_bounds_are_those_of_their_own_epochs(tmp_path: Path) -> None:
    monitor, weights, logger = LipschitzMonitor(background=True, max_queue=9), Weights(), CSVLogger(tmp_path)
    fit(Tiny(), trainer(tmp_path, monitor, weights, logger=logger, max_epochs=3))
    assert [row["epoch"] for row in monitor.history] == [0, 1, 2]
    assert [row["step"] for row in monitor.history] == [3, 6, 9]
    assert [row["bound"] for row in monitor.history] == pytest.approx(bounds_of(weights), rel=1e-3)
    assert all(row["status"] == "complete" for row in monitor.history)
    text = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    column, step = (text[0].split(",").index(name) for name in ("lipschitz/bound", "step"))
    logged = {int(line.split(",")[step]): line.split(",")[column] for line in text[1:] if line.split(",")[column]}
    for row in monitor.history:
        assert row["bound"] <= float(logged[row["step"]]) <= row["bound"] * (1 + 1e-6)


class Slow(Executor):
    """Works when it is told to."""

    def __init__(self) -> None:
        self.tasks: list[tuple[Future[Any], Any]] = []

    def submit(self, work: Any, *arguments: Any) -> Future[Any]:  # type: ignore[override]
        future: Future[Any] = Future()
        self.tasks.append((future, (work, arguments)))
        return future

    def work(self) -> None:
        for future, (work, arguments) in self.tasks:
            future.set_result(work(*arguments))


def test_an_epoch_that_finds_no_place_is_left_out(tmp_path: Path) -> None:
    slow = Slow()
    monitor = LipschitzMonitor(background=True, max_queue=2, executor=slow, max_wait=0.1)
    with pytest.warns() as caught:
        fit(Tiny(), trainer(tmp_path, monitor, max_epochs=4))
    ours = [str(w.message) for w in caught if "LipschitzMonitor" in str(w.message)]
    assert any("epoch 2 is left out" in message for message in ours)
    assert any("epochs 0, 1 were not done" in message for message in ours)
    assert len(slow.tasks) == 2
    assert all(future.cancelled() for future, _ in slow.tasks)
    assert monitor.history == []


def test_weights_are_copied_when_they_are_submitted(tmp_path: Path) -> None:
    slow, weights = Slow(), Weights()
    monitor = LipschitzMonitor(background=True, max_queue=9, executor=slow)
    thread = threading.Thread(target=lambda: (_until(lambda: len(slow.tasks) == 3), slow.work()))
    thread.start()
    fit(Tiny(), trainer(tmp_path, monitor, weights, max_epochs=3))
    thread.join()
    assert [row["bound"] for row in monitor.history] == pytest.approx(bounds_of(weights), rel=1e-3)


def _until(condition: Any) -> None:
    while not condition():
        time.sleep(0.01)


def test_off_schedule_epochs_have_no_row(tmp_path: Path) -> None:
    monitor = LipschitzMonitor(every_n_epochs=2, background=True, max_queue=9)
    fit(Tiny(), trainer(tmp_path, monitor, max_epochs=4))
    assert [row["epoch"] for row in monitor.history] == [1, 3]


def test_what_cannot_be_bounded_is_a_warning(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        monitor = LipschitzMonitor(background=True, executor=executor)
        jumps = nn.Sequential(nn.Linear(4, 3), nn.Hardshrink())
        with pytest.warns(match="could not be bounded"):
            fit(Tiny(jumps), trainer(tmp_path, monitor, max_epochs=1))
    assert [row["bound"] for row in monitor.history] == [math.inf]
    assert monitor.history[0]["status"].startswith("failed: UnsupportedLayerError")


class Interrupt(pl.Callback):
    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


def test_an_interrupt_does_not_wait(tmp_path: Path) -> None:
    slow = Slow()
    monitor = LipschitzMonitor(background=True, executor=slow, max_wait=1e6)
    began = time.monotonic()
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        fit(Tiny(), trainer(tmp_path, monitor, Interrupt(), max_epochs=3))
    assert time.monotonic() - began < 60
    assert slow.tasks[0][0].cancelled()


@pytest.mark.parametrize(
    "watcher", [EarlyStopping("lipschitz/bound"), ModelCheckpoint(monitor="lipschitz/bound")], ids=["stop", "save"]
)
def test_nothing_can_monitor_what_is_known_later(tmp_path: Path, watcher: pl.Callback) -> None:
    monitor = LipschitzMonitor(background=True)
    with pytest.raises(MisconfigurationException, match="known later"):
        fit(Tiny(), trainer(tmp_path, monitor, watcher))


@pytest.mark.parametrize("wrong", [{"max_queue": 0}, {"max_queue": True}, {"max_wait": -1}, {"max_wait": "1"}])
def test_bad_arguments(wrong: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException, match=next(iter(wrong))):
        LipschitzMonitor(background=True, **wrong)


def test_a_process_that_dies_costs_its_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lipguard.callbacks import background

    monkeypatch.setattr(background, "certified", _dies)
    monitor = LipschitzMonitor(background=True, max_queue=9)
    with pytest.warns(match="could not be bounded"):
        fit(Tiny(), trainer(tmp_path, monitor, max_epochs=2))
    assert [row["epoch"] for row in monitor.history] == [0, 1]
    assert all(row["bound"] == math.inf for row in monitor.history)
    monkeypatch.undo()
    again = LipschitzMonitor(background=True)
    fit(Tiny(), trainer(tmp_path, again, max_epochs=1))
    assert math.isfinite(again.history[0]["bound"])


def _dies(*_: object) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_a_request_is_a_copy() -> None:
    from lipguard.certifying.request import Request
    from lipguard.config import DCPConfig
    from lipguard.trusted.reading.trace import trace

    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double().eval()
    sent = pickle.dumps(Request(trace(model, (2,)), DCPConfig()))
    digest = trace(model, (2,)).digest
    with torch.no_grad():
        model[0].weight.zero_()
    assert pickle.loads(sent).network.digest == digest
