"""Certified accuracy, estimates, schedules and the penalty, in trainings by Lightning."""

from __future__ import annotations

import copy
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
from lipguard.callbacks import certified, measuring, recomputed, validated
from lipguard.errors import LipguardError
from lipguard.trusted.network.graph import Network

pytestmark = LIGHTNING_WARNINGS


def logits_of(model: nn.Module) -> tuple[Tensor, Tensor]:
    x, y = (torch.cat(parts) for parts in zip(*Batches().batches, strict=True))
    with torch.no_grad():
        return copy.deepcopy(model).double().eval()(x.double()), y


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
    metric.update(*logits_of(model), margins=margins, error=1e-12)
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
    return [record.message for record in caplog.records if "certified" in record.message]


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

    monkeypatch.setattr(certified, "certify_margins", broken)
    monitor = LipschitzMonitor()
    with pytest.warns(UserWarning, match="Margins have no constants of their own, training goes on. RuntimeError"):
        fit(Tiny(), trainer(tmp_path, monitor))
    assert "certified_accuracy_eps_0.25" in monitor.history[-1]


def test_a_network_without_a_bound_certifies_nothing(tmp_path: Path) -> None:
    monitor = LipschitzMonitor()
    net = nn.Sequential(nn.Linear(4, 6), nn.Hardshrink(), nn.Linear(6, 3))
    fitter = trainer(tmp_path, monitor)
    with pytest.warns(UserWarning, match="Hardshrink"):
        model = fit(Tiny(net), fitter)
    assert monitor.history[-1]["bound"] == math.inf
    assert not any("certified" in key for row in monitor.history for key in row)
    assert not any("certified" in key for key in fitter.callback_metrics)
    x, y = (torch.cat(parts) for parts in zip(*Batches().batches, strict=True))
    assert monitor.history[-1]["accuracy"] == pytest.approx(float((model(x).argmax(1) == y).float().mean()))


def test_the_selection_is_logged_without_a_bound(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.Hardshrink(), nn.Linear(6, 3))
    monitor = LipschitzMonitor(min_accuracy=0.1)
    kept = pl.callbacks.ModelCheckpoint(tmp_path, monitor="lipschitz/selection", mode="min")
    with pytest.warns(UserWarning, match="Hardshrink"):
        fit(Tiny(net), trainer(tmp_path, monitor, kept))
    assert monitor.history[-1]["selection"] == 1e30


class Turning(CallsAPart):
    """From the second epoch on it returns something else than what is validated."""

    def forward(self, x: Tensor) -> Tensor:
        factor = 1.0 if self.current_epoch == 0 else 2.0
        return factor * self.net(x)  # type: ignore[no-any-return]


class Seen(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.seen.append(float(trainer.callback_metrics["lipschitz/certified_accuracy_eps_0.1"]))


def test_monitors_see_no_certified_accuracy_of_an_earlier_validation(tmp_path: Path) -> None:
    record, monitor = Seen(), LipschitzMonitor(epsilons=(0.1,))
    fit(Turning(), trainer(tmp_path, monitor, record, max_epochs=2))
    assert [math.isnan(value) for value in record.seen] == [False, True]
    assert ["certified_accuracy_eps_0.1" in row for row in monitor.history] == [True, False]


def test_a_checkpoint_that_monitors_what_is_not_known_ends_no_training(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.Hardshrink(), nn.Linear(6, 3))
    kept = pl.callbacks.ModelCheckpoint(tmp_path, monitor="lipschitz/certified_accuracy_eps_0.1", mode="max")
    monitor, record = LipschitzMonitor(epsilons=(0.1,)), Seen()
    with pytest.warns(UserWarning, match="Hardshrink"):
        fit(Tiny(net), trainer(tmp_path, monitor, record, kept))
    assert len(record.seen) == 3
    assert all(map(math.isnan, record.seen))
    assert not any("certified" in key for row in monitor.history for key in row)


EPSILONS = (0.02, 0.05, 0.1, 0.2, 0.4)


class Offset(Batches):
    """Classes that are near to each other, and batches enough that some radii are next to every epsilon."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(600, 4, generator=generator)
        self.batches = list(zip(x.split(50), x[:, :3].argmax(1).split(50), strict=True))


def linear() -> nn.Module:
    torch.manual_seed(3)
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.mul_(3)
        layer.bias.add_(5.0)
    return layer


def exact_shares(layer: nn.Linear, data: Batches) -> list[float]:
    """What is certified of the samples of a linear classifier, from exact logits."""
    x, y = (torch.cat(parts) for parts in zip(*data.batches, strict=True))
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    logits = x.double() @ weight.T + bias
    gap = logits.gather(1, y[:, None]) - logits
    far = (weight[y][:, None] - weight[None]).norm(dim=2).clamp_min(1e-300)
    radii = torch.where(torch.arange(3) != y[:, None], gap / far, torch.inf).amin(1)
    return [float((radii > epsilon).double().mean()) for epsilon in EPSILONS]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "16-true", "64-true"])
def test_in_every_precision_what_is_logged_is_true(
    tmp_path: Path, precision: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = LipschitzMonitor(epsilons=EPSILONS, margin_seconds=math.inf)
    fitter = trainer(tmp_path, monitor, max_epochs=1, precision=precision)
    model = Tiny(linear(), lr=0.01)
    fitter.fit(model, Offset(), Offset())
    row = monitor.history[-1]
    found = [row[f"certified_accuracy_eps_{epsilon:g}"] for epsilon in EPSILONS]
    right = exact_shares(model.net, Offset())  # type: ignore[arg-type]
    assert all(a <= b for a, b in zip(found, right, strict=True))
    lost = 0.03 if precision in ("bf16-true", "16-true") else 1e-9  # samples are rounded on the way there
    assert all(a >= b - lost for a, b in zip(found, right, strict=True))
    assert not told(caplog)
    for epsilon, share in zip(EPSILONS, found, strict=True):
        assert float(fitter.callback_metrics[f"lipschitz/certified_accuracy_eps_{epsilon:g}"]) <= share


class Cooled(Tiny):
    """Divides by a temperature, behind what is bounded."""

    temperature = 1.3

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_acc", (self.whole(x).argmax(1) == y).float().mean(), batch_size=len(y))

    def whole(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) / self.temperature  # type: ignore[no-any-return]


class Shifting(Cooled):
    """Adds a little to one of its logits, which are far from zero: next to nothing of them, and much of the margins."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + torch.tensor([0.1, 0.0, 0.0])  # type: ignore[no-any-return]


@pytest.mark.parametrize(("model", "precision"), [(Cooled, "32-true"), (Cooled, "bf16-mixed"), (Shifting, "32-true")])
def test_what_returns_something_else_is_noticed_by_its_margins(
    tmp_path: Path, model: type[Tiny], precision: Any, caplog: pytest.LogCaptureFixture
) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    if model is Shifting:
        with torch.no_grad():
            net[2].bias.add_(50.0)  # type: ignore[operator]
    monitor = LipschitzMonitor()
    fit(model(net, lr=0.01), trainer(tmp_path, monitor, precision=precision))
    assert not any("certified" in key for row in monitor.history for key in row)
    assert len([message for message in told(caplog) if "calls net, which does not return" in message]) == 1


class Changing(Tiny):
    """Works in place on its input, which is another one when logits are computed anew."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.mul_(2))  # type: ignore[no-any-return]


def test_inputs_that_are_changed_are_no_reason_to_log_something_false(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = LipschitzMonitor()
    fit(Changing(lr=0.01), trainer(tmp_path, monitor, max_epochs=1))
    assert not any("certified" in key for row in monitor.history for key in row)
    assert told(caplog)


@pytest.mark.parametrize("able", [0, 7, 40])
def test_where_the_samples_are_too_many_the_likeliest_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, able: int
) -> None:
    real, computed = recomputed.values, []

    def watched(network: Network, x: Tensor, norms: Any = None) -> tuple[Tensor, Tensor]:
        computed.append(len(x))
        return real(network, x, norms)

    found = []
    monkeypatch.setattr(recomputed, "values", watched)
    for limit in (24, able):
        computed.clear()
        monkeypatch.setattr(recomputed, "_MOST_WORK", limit * 19)  # a matrix of 4 x 3, and one for each entry
        monitor = LipschitzMonitor(epsilons=(0.3, 0.5), margin_seconds=math.inf)
        layer = linear()
        with torch.no_grad():
            layer.weight.copy_(torch.eye(3, 4))  # type: ignore[operator]
        fit(Tiny(layer, lr=0.01), trainer(tmp_path, monitor, max_epochs=1))
        found.append(monitor.history[-1])
        assert computed[-1] <= max(limit, 4)
    whole, part = (round(row["certified_accuracy_eps_0.3"] * 24) for row in found)
    assert 7 < whole < 24
    assert part == min(whole, max(able, 4))
    assert found[0]["accuracy"] == found[1]["accuracy"]
    assert len([m for m in told(caplog) if "likeliest" in m]) == (able < 24)


def test_inputs_that_are_too_many_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(validated, "_MOST_ENTRIES", 24 * 7 - 1)
    monitor = LipschitzMonitor()
    fit(Tiny(), trainer(tmp_path, monitor))
    assert not any("certified" in key for row in monitor.history for key in row)
    assert len([m for m in told(caplog) if "more than 167 numbers in its inputs and logits" in m]) == 1


def test_logits_that_cannot_be_computed_cost_the_certified_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise MemoryError("full")

    monkeypatch.setattr(recomputed, "values", broken)
    monitor = LipschitzMonitor()
    fit(Tiny(), trainer(tmp_path, monitor))
    assert all(math.isfinite(row["bound"]) for row in monitor.history)
    assert not any("certified" in key for row in monitor.history for key in row)
    assert len([m for m in told(caplog) if "because MemoryError: full" in m]) == 1


def test_weights_that_changed_since_the_bound_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, real = Tiny(), certified.certify_margins

    def moved(*args: Any, **kwargs: Any) -> Margins:
        found = real(*args, **kwargs)
        with torch.no_grad():
            model.net[0].bias.add_(1e-6)
        return found

    monkeypatch.setattr(certified, "certify_margins", moved)
    monitor = LipschitzMonitor()
    fit(model, trainer(tmp_path, monitor, max_epochs=1))
    assert not any("certified" in key for row in monitor.history for key in row)
    assert len([m for m in told(caplog) if "the weights are no longer those that were bounded" in m]) == 1


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
    real = measuring.certify
    monkeypatch.setattr(
        measuring, "certify", lambda *a, optimise, **k: found.append(optimise) or real(*a, optimise=optimise, **k)
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
