"""Whatever goes wrong with the bound, the training goes on, and every monitor finds its key."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from tiny_training import LIGHTNING_WARNINGS, Batches, Tiny, fit, trainer
from torch import Tensor, nn

from lipguard import DCPConfig, LipschitzMonitor
from lipguard.callbacks import measuring

pytestmark = LIGHTNING_WARNINGS


def test_an_estimate_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the solver is on fire")

    monkeypatch.setattr(measuring, "certify", broken)
    monitor = LipschitzMonitor()
    watchers = (EarlyStopping("lipschitz/bound", check_finite=False), ModelCheckpoint(monitor="lipschitz/bound"))
    fitter = trainer(tmp_path, monitor, *watchers, max_epochs=2)
    with pytest.warns() as caught:
        fit(Tiny(), fitter)

    ours = [str(w.message) for w in caught if "LipschitzMonitor" in str(w.message)]
    assert len(ours) == 1  # once per reason, not once per epoch
    assert "RuntimeError: the solver is on fire" in ours[0]
    assert [row["bound"] for row in monitor.history] == [math.inf, math.inf]
    assert monitor.history[0]["status"] == "failed: RuntimeError: the solver is on fire"
    assert monitor.history[0]["tightness"] == 0
    assert fitter.callback_metrics["lipschitz/bound"] == math.inf


def test_a_solve_that_fails_leaves_a_cheaper_certified_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = measuring.certify

    def no_solver(*args: Any, optimise: bool = True, **kwargs: Any) -> Any:
        if optimise:
            raise MemoryError("LMI too large")
        return real(*args, optimise=False, **kwargs)

    monkeypatch.setattr(measuring, "certify", no_solver)
    monitor = LipschitzMonitor()
    with pytest.warns(match="looser than it could be.*MemoryError: LMI too large"):
        fit(Tiny(), trainer(tmp_path, monitor, max_epochs=1))

    (row,) = monitor.history
    assert row["status"] == "fallback: MemoryError: LMI too large"
    assert 0 < row["lower_bound"] <= row["bound"] <= row["product_bound"] < math.inf


class _Branching(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.Hardshrink()), "UnsupportedLayerError.*Hardshrink"),
        (_Branching(), "InvalidNetworkError.*control flow depends on data"),
    ],
    ids=["a jump", "branching"],
)
def test_an_unsupported_network_still_trains(tmp_path: Path, net: nn.Module, reason: str) -> None:
    monitor = LipschitzMonitor()
    with pytest.warns(match=reason):
        fit(Tiny(net), trainer(tmp_path, monitor, ModelCheckpoint(monitor="lipschitz/bound"), max_epochs=2))

    assert [row["digest"] for row in monitor.history] == [None, None]
    assert monitor.last_report is None


class _Integers(Batches):
    def __iter__(self) -> Any:
        return ((x.long(), y) for x, y in super().__iter__())


class _ReadsIntegers(Tiny):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step((batch[0].float(), batch[1]), batch_idx)


def test_an_unknown_input_shape_is_told(tmp_path: Path) -> None:
    with pytest.warns(match=r"Pass LipschitzMonitor\(input_shape=...\)"):
        fit(_ReadsIntegers(), trainer(tmp_path, LipschitzMonitor(), max_epochs=1), _Integers())


def test_integer_batches_do_with_the_shape_alone(tmp_path: Path) -> None:
    monitor = LipschitzMonitor(input_shape=(4,))
    fit(_ReadsIntegers(), trainer(tmp_path, monitor, max_epochs=1), _Integers())

    assert 0 < monitor.history[0]["lower_bound"] <= monitor.history[0]["bound"] < math.inf


def test_a_stored_certificate_that_cannot_be_read_costs_only_the_warm_start() -> None:
    monitor = LipschitzMonitor()
    state = monitor.state_dict() | {"warm_start": {"format": "from the future"}}
    with pytest.warns(match="certificate in the checkpoint is unusable"):
        monitor.load_state_dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.load_state_dict(state)  # told once
    assert monitor.history == []


@pytest.mark.parametrize(
    "config",
    [DCPConfig(solver="scs", max_block_size=2), DCPConfig(proof="dense", max_block_size=2)],
    ids=["scs", "dense"],
)
def test_settings_that_do_not_fit_the_network_are_refused_before_training(tmp_path: Path, config: DCPConfig) -> None:
    monitor = LipschitzMonitor(config=config, input_shape=(4,))
    with pytest.raises(MisconfigurationException, match="the smallest LMI has"):
        fit(Tiny(), trainer(tmp_path, monitor))


def test_settings_that_do_not_fit_are_a_product_bound_where_the_shape_is_known_too_late(tmp_path: Path) -> None:
    monitor = LipschitzMonitor(config=DCPConfig(solver="scs", max_block_size=2))
    with pytest.warns(UserWarning, match="the smallest LMI has"):
        fit(Tiny(), trainer(tmp_path, monitor, max_epochs=1))
    assert monitor.history[0]["bound"] == monitor.history[0]["product_bound"] < math.inf
