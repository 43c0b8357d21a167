"""Certified accuracy, estimates, schedules and the penalty, in trainings by Lightning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from integration.tiny_training import LIGHTNING_WARNINGS, Batches, Tiny, fit, trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lipguard import CertifiedAccuracy, DCPConfig, LipschitzMonitor, Margins
from lipguard.callbacks import monitoring
from lipguard.errors import LipguardError

pytestmark = LIGHTNING_WARNINGS


def logits_of(model: nn.Module) -> tuple[Tensor, Tensor]:
    x, y = (torch.cat(parts) for parts in zip(*Batches().batches, strict=True))
    with torch.no_grad():
        return model.eval()(x), y


@pytest.mark.parametrize("margin_seconds", [None, 0.0])
def test_what_is_logged_is_what_the_metric_says(tmp_path: Path, margin_seconds: float | None) -> None:
    monitor = LipschitzMonitor(epsilons=(0.05, 0.4), margin_seconds=margin_seconds, input_std=0.5)
    fitter = trainer(tmp_path, monitor, max_epochs=4)
    model = fit(Tiny(), fitter)
    assert monitor.last_report is not None
    margins = Margins.of_bound(monitor.history[-1]["bound"], 3)
    if margin_seconds is None:
        assert monitor.last_margins is not None
        assert len(monitor.last_margins.reports) == 3
        margins = monitor.last_margins
    metric = CertifiedAccuracy((0.05, 0.4), 3, input_std=0.5)
    metric.update(*logits_of(model), margins=margins)
    shares = metric.compute()
    for share, key in zip(shares, ("certified_accuracy_eps_0.05", "certified_accuracy_eps_0.4"), strict=True):
        assert monitor.history[-1][key] == pytest.approx(float(share), abs=1e-6)
        assert float(fitter.callback_metrics[f"lipschitz/{key}"]) == pytest.approx(float(share), abs=1e-6)
    assert 0 < shares[1] < shares[0] <= metric.accuracy()
    assert monitor.history[-1]["average_certified_radius"] == pytest.approx(float(metric.average_radius()), rel=1e-5)
    assert len(monitor.history) == 4
    assert all("certified_accuracy_eps_0.4" in row for row in monitor.history)


def test_margins_cost_less_than_sqrt_2(tmp_path: Path) -> None:
    radii = []
    for seconds in (None, 0.0):
        monitor = LipschitzMonitor(margin_seconds=seconds)
        fit(Tiny(), trainer(tmp_path, monitor))
        radii.append(monitor.history[-1]["average_certified_radius"])
    assert radii[0] > 1.1 * radii[1]


class CallsAPart(Tiny):
    """Validation goes around `forward`."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_acc", (self.net(x).argmax(1) == y).float().mean(), batch_size=len(y))


class CallsAnother(CallsAPart):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.net(x)  # type: ignore[no-any-return]


class Regression(Tiny):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0]).square().mean()  # type: ignore[no-any-return]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self(batch[0]).square().mean(), batch_size=8)


class NoLabels(Batches):
    def __init__(self) -> None:
        super().__init__()
        self.batches = [(x, x) for x, _ in self.batches]  # type: ignore[misc]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "certified accuracy" in record.message]


def test_a_part_that_is_the_whole_will_do(tmp_path: Path) -> None:
    monitor = LipschitzMonitor()
    fit(CallsAPart(), trainer(tmp_path, monitor))
    assert "certified_accuracy_eps_0.25" in monitor.history[-1]


@pytest.mark.parametrize(
    ("model", "data", "reason"),
    [
        (CallsAnother, Batches, "calls net, which does not return what the network that is bounded does"),
        (Regression, NoLabels, "no integer label"),
    ],
)
def test_where_there_are_no_logits_it_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model: type[Tiny], data: type[Batches], reason: str
) -> None:
    monitor = LipschitzMonitor()
    fitter = trainer(tmp_path, monitor)
    fitter.fit(model(), data(), data())
    assert len(monitor.history) == 3
    assert not any("certified" in key for row in monitor.history for key in row)
    assert len([message for message in told(caplog) if reason in message]) == 1


def test_without_validation_or_epsilons_there_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for monitor, options in ((LipschitzMonitor(), {"limit_val_batches": 0}), (LipschitzMonitor(epsilons=()), {})):
        fit(Tiny(), trainer(tmp_path, monitor, **options))
        assert not any("certified" in key for row in monitor.history for key in row)
    assert not told(caplog)


def test_margins_that_fail_cost_tightness_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Margins:
        raise RuntimeError("no memory")

    monkeypatch.setattr(monitoring, "certify_margins", broken)
    monitor = LipschitzMonitor()
    with pytest.warns(UserWarning, match="Margins have no constants of their own, training goes on. RuntimeError"):
        fit(Tiny(), trainer(tmp_path, monitor))
    assert "certified_accuracy_eps_0.25" in monitor.history[-1]


def test_a_network_without_a_bound_certifies_nothing(tmp_path: Path) -> None:
    monitor = LipschitzMonitor()
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    with pytest.warns(UserWarning, match="LayerNorm"):
        fit(Tiny(net), trainer(tmp_path, monitor))
    assert monitor.history[-1]["bound"] == math.inf
    assert monitor.history[-1]["certified_accuracy_eps_0.1"] == 0.0


def test_hooks_are_gone_after_the_fit(tmp_path: Path) -> None:
    model = fit(Tiny(), trainer(tmp_path, LipschitzMonitor()))
    assert not any(module._forward_hooks for module in model.modules())


class Penalised(Tiny):
    monitor: LipschitzMonitor
    lam = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss + self.lam * self.monitor.penalty() if self.lam else loss


def test_the_penalty_in_a_training_step(tmp_path: Path) -> None:
    bounds = []
    for lam in (0.0, 0.3):
        model, monitor = Penalised(), LipschitzMonitor()
        object.__setattr__(model, "monitor", monitor)
        model.lam = lam
        fit(model, trainer(tmp_path, monitor, max_epochs=6))
        bounds.append(monitor.history[-1]["bound"])
    assert bounds[1] < 0.7 * bounds[0]
    with pytest.raises(LipguardError, match="pass it to a Trainer"):
        LipschitzMonitor().penalty()


def test_an_estimate_per_step_is_below_the_bound_and_changes_nothing(tmp_path: Path) -> None:
    found = []
    for every in (None, 1):
        record = _Steps()
        monitor = LipschitzMonitor(estimate_every_n_steps=every)
        model = fit(Tiny(), trainer(tmp_path, monitor, record))
        found.append([p.detach().clone() for p in model.parameters()])
        if every:
            assert len(record.seen) == 9
            assert 0.7 * monitor.history[-1]["bound"] < record.seen[-1] <= monitor.history[-1]["bound"]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


class _Steps(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if "lipschitz/estimate" in trainer.callback_metrics:
            self.seen.append(float(trainer.callback_metrics["lipschitz/estimate"]))


def solves(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    found: list[bool] = []
    real = monitoring.certify
    monkeypatch.setattr(
        monitoring, "certify", lambda *a, optimise, **k: found.append(optimise) or real(*a, optimise=optimise, **k)
    )
    return found


def test_schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = solves(monkeypatch)
    fit(Tiny(), trainer(tmp_path, LipschitzMonitor(warmup_epochs=2), max_epochs=4))
    assert found == [False, False, True, True]
    found.clear()
    fit(Tiny(), trainer(tmp_path, LipschitzMonitor(every_n_train_steps=4), max_epochs=3))  # of 9
    assert [k for k, full in enumerate(found) if full] == [1, 3]
    assert found == [False, True, False, True, False]


def test_solves_beyond_the_overhead_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = solves(monkeypatch)
    monitor = LipschitzMonitor(max_overhead=0.001)
    with pytest.warns(UserWarning, match="A solve was left out"):
        fit(Tiny(), trainer(tmp_path, monitor, max_epochs=4))
    assert found == [True, False, False, False]
    assert all(math.isfinite(row["bound"]) for row in monitor.history)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilons": (-0.1,)}, "epsilon to be a radius"), ({"input_std": 0.0}, "input_std to be positive"),
        ({"margin_seconds": -1.0}, "margin_seconds to be a number of at least 0"),
        ({"warmup_epochs": 1.5}, "warmup_epochs to be an integer"), ({"warmup_epochs": None}, "warmup_epochs"),
        ({"every_n_train_steps": 0}, "every_n_train_steps to be an integer of at least 1"),
        ({"estimate_every_n_steps": True}, "estimate_every_n_steps"), ({"max_overhead": "x"}, "max_overhead"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        LipschitzMonitor(config=DCPConfig(), **arguments)


class Growing(Batches):
    """Samples of another shape than those that are trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = [(torch.cat([x, x], 1), y) for x, y in self.batches]


class Halved(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x[:, :4])  # type: ignore[no-any-return]


def test_validation_on_inputs_of_another_shape(tmp_path: Path) -> None:
    monitor = LipschitzMonitor()
    trainer(tmp_path, monitor).fit(Halved(), Batches(), Growing())
    assert all(math.isfinite(row["bound"]) for row in monitor.history)
    assert len([row for row in monitor.history if "certified_accuracy_eps_0.25" in row]) == 3  # `net` reads four
