"""LipschitzMonitor in real Trainer runs: what is logged, and that it belongs to the weights of its time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import BATCHES, INPUT_SHAPE, LIGHTNING_WARNINGS, Batches, Tiny, fit, trainer
from torch import Tensor, nn

from lipguard import LipschitzMonitor
from lipguard.callbacks import measuring
from lipguard.callbacks.rows import OF_BOUNDS

pytestmark = LIGHTNING_WARNINGS


def test_the_event_file_holds_every_epoch_rounded_the_safe_way(tmp_path: Path) -> None:
    monitor = LipschitzMonitor()
    board, table = TensorBoardLogger(tmp_path, name="", version="tb"), CSVLogger(tmp_path, name="", version="csv")
    fit(Tiny(), trainer(tmp_path, monitor, logger=[board, table]))

    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    names = [key.name for key in OF_BOUNDS]
    scalars = {name: [event.value for event in events.Scalars(f"lipschitz/{name}")] for name in names}
    accuracies = events.Scalars("val_acc")

    assert [row["epoch"] for row in monitor.history] == [0, 1, 2]
    assert [row["step"] for row in monitor.history] == [BATCHES, 2 * BATCHES, 3 * BATCHES]
    for i, row in enumerate(monitor.history):
        assert 0 < row["lower_bound"] <= row["bound"] <= row["product_bound"]
        for key in OF_BOUNDS:
            value, logged = row[key.name], scalars[key.name][i]
            below, above = (1, 1 + 2**-23) if key.rounded == "up" else (1 - 2**-23, 1)
            assert value * below <= logged <= value * above, key.name
    # On one axis with the user's own metric.
    assert [event.step for event in events.Scalars("lipschitz/bound")] == [event.step for event in accuracies]
    assert "lipschitz/bound" in (tmp_path / "csv" / "metrics.csv").read_text()


def test_between_solves_the_bound_is_of_the_current_weights(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    monitor = LipschitzMonitor(every_n_epochs=3)
    patient = EarlyStopping("lipschitz/bound", patience=100)  # raises if its key is missing
    fit(Tiny(), trainer(tmp_path, monitor, patient, _AtEpochEnd(lambda t, m: seen.append(bound(t))), max_epochs=4))

    assert len({row["digest"] for row in monitor.history}) == len(monitor.history) == 4
    assert len(set(map(float, seen))) == 4
    assert all(value.dtype == torch.float64 for value in seen)
    # Nothing to reuse yet, so the first rows are the certified product.
    assert monitor.history[0]["bound"] == pytest.approx(monitor.history[0]["product_bound"])
    assert monitor.history[2]["bound"] < monitor.history[2]["product_bound"]


def test_early_stopping_does_not_stop_on_a_stale_value(tmp_path: Path) -> None:
    # The bound grows from epoch to epoch; a key of the epoch before would not, and patience=1 would stop there.
    monitor = LipschitzMonitor(every_n_epochs=2)
    stopping = EarlyStopping("lipschitz/product_bound", mode="max", patience=1)
    fitter = trainer(tmp_path, monitor, stopping, max_epochs=4)
    fit(Tiny(), fitter)

    assert [row["epoch"] for row in monitor.history] == [0, 1, 2, 3]
    assert stopping.stopped_epoch == 0


def test_early_stopping_stops_on_the_bound(tmp_path: Path) -> None:
    stopping = EarlyStopping("lipschitz/bound", mode="min", patience=1)
    fit(Tiny(), trainer(tmp_path, LipschitzMonitor(), stopping, max_epochs=5))

    assert stopping.stopped_epoch == 1


@pytest.mark.parametrize("validate", [True, False])
def test_training_is_the_same_with_and_without_the_monitor(tmp_path: Path, validate: bool) -> None:
    def train(*callbacks: pl.Callback) -> tuple[Tiny, tuple[Any, ...]]:
        pl.seed_everything(7, verbose=False)
        model = Tiny(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 3)))
        model.net[3].eval()  # a frozen part has to stay as it is
        with pytest.warns(match="in eval mode at the start of training"):
            fit(model, trainer(tmp_path, *callbacks, limit_val_batches=int(validate)))
        global_state = np.random.get_state()[1].tolist()  # noqa: NPY002
        return model, (torch.get_rng_state().tolist(), global_state, random.getstate())

    plain, plain_state = train()
    watched, watched_state = train(LipschitzMonitor())

    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert plain_state == watched_state


class _AtEpochEnd(pl.Callback):
    """Runs after the monitor, which is listed before it."""

    def __init__(self, action: Callable[[pl.Trainer, pl.LightningModule], object]) -> None:
        self.action = action

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.action(trainer, pl_module)


def bound(fitter: pl.Trainer) -> Tensor:
    return fitter.callback_metrics["lipschitz/bound"]


def test_flags_and_gradients_are_left_as_they_were(tmp_path: Path) -> None:
    before: list[Any] = []
    after: list[Any] = []

    def look(found: list[Any]) -> Callable[[pl.Trainer, pl.LightningModule], object]:
        def action(_: pl.Trainer, module: pl.LightningModule) -> None:
            found.append([m.training for m in module.modules()])
            found.append([None if p.grad is None else p.grad.clone() for p in module.parameters()])

        return action

    callbacks = (_AtEpochEnd(look(before)), LipschitzMonitor(), _AtEpochEnd(look(after)))
    fit(Tiny(), trainer(tmp_path, *callbacks, max_epochs=1, limit_val_batches=0))

    assert before[0] == after[0]
    assert all(a is b or torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))


def test_only_fitting_is_measured(tmp_path: Path) -> None:
    monitor = LipschitzMonitor()
    fitter = trainer(tmp_path, monitor, max_epochs=1, num_sanity_val_steps=2)
    model = fit(Tiny(), fitter)
    fitter.validate(model, Batches(), verbose=False)

    assert [(row["epoch"], row["step"]) for row in monitor.history] == [(0, BATCHES)]


@pytest.mark.parametrize("options", [{"logger": False}, {"fast_dev_run": True}], ids=["no logger", "fast_dev_run"])
def test_no_logger_is_needed(tmp_path: Path, options: dict[str, Any]) -> None:
    monitor = LipschitzMonitor()
    fitter = trainer(tmp_path, monitor, EarlyStopping("lipschitz/bound"), max_epochs=1, **options)
    fit(Tiny(), fitter)

    assert len(monitor.history) == 1
    assert bound(fitter) >= monitor.history[0]["bound"]


def test_barebones_is_honoured(tmp_path: Path) -> None:
    monitor = LipschitzMonitor()
    bare = {"logger": None, "log_every_n_steps": None, "enable_checkpointing": None, "enable_model_summary": None}
    with pytest.warns(match="log.*barebones"):  # Tiny's own
        fit(Tiny(), trainer(tmp_path, monitor, barebones=True, enable_progress_bar=None, max_epochs=1, **bare))

    assert monitor.history == []


class _Dictionaries(Batches):
    def __iter__(self) -> Any:
        return ({"label": y, "image": x} for x, y in super().__iter__())


class _ReadsDictionaries(Tiny):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step((batch["image"], batch["label"]), batch_idx)


def test_the_input_shape_is_found_in_a_batch(tmp_path: Path) -> None:
    monitor = LipschitzMonitor()
    fit(_ReadsDictionaries(), trainer(tmp_path, monitor, max_epochs=1), _Dictionaries())

    assert np.isfinite(monitor.history[0]["bound"])
    assert monitor.state_dict()["input_shape"] == list(INPUT_SHAPE)


def test_the_input_shape_is_found_in_the_example_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    real = measuring.certify

    def recording(model: nn.Module, shape: tuple[int, ...], *args: Any, **kwargs: Any) -> Any:
        shapes.append(shape)
        return real(model, shape, *args, **kwargs)

    monkeypatch.setattr(measuring, "certify", recording)
    model = Tiny(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    model.example_input_array = torch.zeros(2, 1, 2, 2)  # not the shape of a batch
    fit(model, trainer(tmp_path, LipschitzMonitor(), max_epochs=1))
    fit(model, trainer(tmp_path, LipschitzMonitor(input_shape=[2, 2]), max_epochs=1))

    assert shapes == [(1, 2, 2), (2, 2)]


def test_two_monitors_share_a_trainer(tmp_path: Path) -> None:
    fitter = trainer(tmp_path, LipschitzMonitor(), LipschitzMonitor(log_prefix="rough", every_n_epochs=9))
    fit(Tiny(), fitter)

    assert fitter.callback_metrics["rough/bound"] >= bound(fitter)


@pytest.mark.slow
def test_two_processes_log_the_same(tmp_path: Path) -> None:
    monitor = LipschitzMonitor()
    record = _RecordPerRank(tmp_path)
    options = {"strategy": "ddp_spawn", "devices": 2, "max_epochs": 2, "use_distributed_sampler": False}
    fit(Tiny(), trainer(tmp_path, monitor, record, EarlyStopping("lipschitz/bound", patience=9), **options))

    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert first == second
    assert len(first["history"]) == 2


class _RecordPerRank(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        monitor = next(callback for callback in trainer.callbacks if isinstance(callback, LipschitzMonitor))
        seen = {"history": monitor.history, "bound": float(bound(trainer))}
        torch.save(seen, self.folder / f"rank{trainer.global_rank}.pt")


@pytest.mark.slow
def test_two_processes_go_on_when_the_first_one_fails(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.Softmax(1), nn.Linear(6, 3))
    options = {"strategy": "ddp_spawn", "devices": 2, "max_epochs": 2, "use_distributed_sampler": False}
    fit(Tiny(net), trainer(tmp_path, LipschitzMonitor(), _RecordPerRank(tmp_path), **options))
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert first == second
    assert first["bound"] == math.inf
    assert not any(name.startswith("certified_accuracy") for name in first["history"][-1])
