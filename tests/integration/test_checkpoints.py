"""The bound that a checkpoint was chosen by is the bound of the weights in it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from tiny_training import LIGHTNING_WARNINGS, Tiny, fit, trainer
from torch import nn

from lipguard import LipschitzMonitor, verify
from lipguard.callbacks import measuring
from lipguard.trusted.certificate.certificate import Certificate

pytestmark = LIGHTNING_WARNINGS


def keep_all(**options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(monitor="lipschitz/bound", mode="min", save_top_k=-1, **options)


def monitor_state(path: str) -> dict[str, Any]:
    stored = torch.load(path, weights_only=True)  # as a resume loads it
    return next(state for key, state in stored["callbacks"].items() if key.startswith("LipschitzMonitor"))


def assert_belongs(path: str, score: torch.Tensor, model: nn.Module) -> None:
    """The score is the bound in the last row, whose certificate holds for the saved weights and for no others."""
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    state = monitor_state(path)
    row, certificate = state["history"][-1], Certificate.from_state(state["warm_start"]["certificate"])
    assert row["digest"] == certificate.digest
    assert verify(certificate, model.eval()) <= row["bound"] <= float(score) <= row["bound"] * (1 + 2**-23)


SCHEDULES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "default": ({}, {}, 4),
    "without validation": ({}, {"limit_val_batches": 0}, 4),
    "at validation end": ({"save_on_train_epoch_end": False}, {}, 4),
    "at train epoch end": ({"save_on_train_epoch_end": True}, {"val_check_interval": 0.4}, 4),
    "validation every other epoch": ({}, {"check_val_every_n_epoch": 2}, 2),
    "epoch ends between validations": (
        {"save_on_train_epoch_end": True},
        {"check_val_every_n_epoch": 2},
        4,
    ),
    "validation inside epochs": ({}, {"val_check_interval": 0.4}, 12),
    "validation across epochs": ({}, {"val_check_interval": 5, "check_val_every_n_epoch": None}, 2),
    "every n steps": ({"every_n_train_steps": 2}, {}, 6),
    "every n steps, accumulating": ({"every_n_train_steps": 1}, {"accumulate_grad_batches": 2}, 8),
    "every n steps, no validation": ({"every_n_train_steps": 1}, {"limit_val_batches": 0}, 12),
}


@pytest.mark.parametrize("every_n_epochs", [1, 3])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_monitored_bound_is_of_the_saved_weights(tmp_path: Path, schedule: str, every_n_epochs: int) -> None:
    when, how, saved = SCHEDULES[schedule]
    checkpoint = keep_all(dirpath=tmp_path / "kept", **when)
    fit(Tiny(), trainer(tmp_path, LipschitzMonitor(every_n_epochs, epsilons=()), checkpoint, max_epochs=4, **how))

    assert len(checkpoint.best_k_models) == saved
    for path, score in checkpoint.best_k_models.items():
        assert_belongs(path, score, Tiny())
    rows = [monitor_state(path)["history"][-1] for path in checkpoint.best_k_models]
    assert float(checkpoint.best_model_score) == pytest.approx(min(row["bound"] for row in rows))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        # One row per validation, none twice, and the solve at the end of the epoch in which it is due.
        ({"max_epochs": 2}, [False, False, False, False, False, True]),
        # Training ends inside an epoch: validation did not know, the end of training makes up for it.
        ({"max_steps": 5, "max_epochs": 2}, [False, False, False, False, False, True]),
    ],
    ids=["epochs", "steps"],
)
def test_a_full_solve_waits_for_the_end_of_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], expected: list[bool]
) -> None:
    solved = []
    real = measuring.certify
    monkeypatch.setattr(
        measuring, "certify", lambda *a, optimise, **k: solved.append(optimise) or real(*a, optimise=optimise, **k)
    )
    monitor = LipschitzMonitor(every_n_epochs=2)
    fit(Tiny(), trainer(tmp_path, monitor, val_check_interval=0.4, **how))

    assert solved == expected
    assert len(monitor.history) == len(expected)


@pytest.mark.parametrize("at_train_epoch_end", [True, False])
def test_resumed_equals_uninterrupted(tmp_path: Path, at_train_epoch_end: bool) -> None:
    def run(name: str, epochs: int, ckpt_path: str | None = None) -> tuple[LipschitzMonitor, ModelCheckpoint]:
        checkpoint = keep_all(dirpath=tmp_path / name, save_on_train_epoch_end=at_train_epoch_end)
        monitor = LipschitzMonitor(every_n_epochs=2)
        stopping = EarlyStopping("lipschitz/bound", patience=100)
        fit(Tiny(), trainer(tmp_path, monitor, stopping, checkpoint, max_epochs=epochs), ckpt_path=ckpt_path)
        return monitor, checkpoint

    whole, kept = run("whole", 5)
    # From the middle of the schedule: epoch 2 has reused the multipliers of epoch 1, epoch 3 solves again.
    middle = next(path for path in kept.best_k_models if "epoch=2-" in path)
    for file in (tmp_path / "whole").iterdir():
        if str(file) != middle:
            file.unlink()
    with pytest.warns(match="The dirpath has changed"):
        resumed, _ = run("resumed", 5, middle)

    def comparable(monitor: LipschitzMonitor) -> list[dict[str, Any]]:
        # Margins begin anew: their constants differ by what a cold start and a warm one leave.
        changing = ("seconds", "margin_seconds", "average_certified_radius", "certified_accuracy")
        return [{key: value for key, value in row.items() if not key.startswith(changing)} for row in monitor.history]

    assert len(whole.history) == 5
    assert comparable(resumed) == comparable(whole)


class _ClipsLate(Tiny):
    def on_train_epoch_end(self) -> None:
        for parameter in self.parameters():
            parameter.data.clamp_(-0.5, 0.5)  # no version counter sees this


class _ClipsInTime(pl.Callback):
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _ClipsLate.on_train_epoch_end(pl_module)


def test_weights_changed_by_an_earlier_callback_are_measured_again(tmp_path: Path) -> None:
    checkpoint = keep_all(dirpath=tmp_path / "kept")
    monitor = LipschitzMonitor()
    fit(Tiny(), trainer(tmp_path, _ClipsInTime(), monitor, checkpoint, max_epochs=2))

    assert len(monitor.history) == 4  # after validation, and after clipping
    for path, score in checkpoint.best_k_models.items():
        assert_belongs(path, score, Tiny())


def test_weights_changed_too_late_are_told(tmp_path: Path) -> None:
    with pytest.warns(match="weights were changed after the bound"):
        fit(_ClipsLate(), trainer(tmp_path, LipschitzMonitor(), keep_all(), max_epochs=2))


@pytest.mark.parametrize("first", [True, False], ids=["the average first", "the monitor first"])
def test_averaged_weights_are_bounded_where_they_are_stored(tmp_path: Path, first: bool) -> None:
    averaging = pytest.importorskip("pytorch_lightning.callbacks.weight_averaging")
    checkpoint = keep_all(dirpath=tmp_path / "kept")
    callbacks = [averaging.EMAWeightAveraging(decay=0.9), LipschitzMonitor()]
    fit(Tiny(), trainer(tmp_path, *(callbacks if first else callbacks[::-1]), checkpoint, max_epochs=2))

    assert len(checkpoint.best_k_models) == 2
    for path, score in checkpoint.best_k_models.items():
        assert_belongs(path, score, Tiny())


def test_a_checkpoint_triggered_by_time_is_refused(tmp_path: Path) -> None:
    checkpoint = keep_all(train_time_interval=timedelta(seconds=1))
    with pytest.raises(MisconfigurationException, match="train_time_interval"):
        fit(Tiny(), trainer(tmp_path, LipschitzMonitor(), checkpoint))


def test_checkpoints_of_other_metrics_may_be_triggered_by_time(tmp_path: Path) -> None:
    fit(Tiny(), trainer(tmp_path, LipschitzMonitor(), ModelCheckpoint(train_time_interval=timedelta(hours=1))))
