"""Many networks at once: the same reports as one by one, whatever dies on the way."""

from __future__ import annotations

import os
import pickle
import signal
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch
from helpers.networks import ACTIVATIONS, with_weights
from torch import nn

import lipguard
from lipguard import DCPConfig
from lipguard.certifying import many
from lipguard.errors import ConfigError, UnsupportedLayerError
from lipguard.trusted.network.cutting import cut_behind
from lipguard.trusted.reading.trace import trace


def nets(count: int = 3) -> list[nn.Module]:
    return [
        with_weights(nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.1), nn.Linear(6, 3)), seed) for seed in range(count)
    ]


def alone(models: list[nn.Module]) -> list[float]:
    return [lipguard.certify(model, (4,)).bound for model in models]


@pytest.mark.parametrize("workers", [1, 2])
def test_reports_are_those_of_one_by_one(workers: int) -> None:
    models = nets()
    reports = lipguard.certify_many(models, (4,), DCPConfig(workers=workers))
    assert [report.bound for report in reports] == pytest.approx(alone(models), rel=1e-6)
    for model, report in zip(models, reports, strict=True):
        assert report.status == "complete"
        assert lipguard.verify(report.certificate, model) == report.bound
    again = lipguard.certify_many(models, (4,), DCPConfig(workers=workers), warm_starts=[*reports[:2], None])
    assert [report.bound for report in again] == pytest.approx(alone(models), rel=1e-3)


def test_nothing_to_do_and_what_does_not_fit() -> None:
    assert lipguard.certify_many([], (4,)) == []
    with pytest.raises(ValueError, match="one per model"):
        lipguard.certify_many(nets(2), (4,), warm_starts=[None])
    with pytest.raises(UnsupportedLayerError):
        lipguard.certify_many([nets(1)[0], nn.Sequential(nn.Linear(4, 4), nn.Hardshrink())], (4,))


@pytest.mark.parametrize("make", ACTIVATIONS)
def test_networks_travel_to_other_processes(make: Any) -> None:
    network = cut_behind(trace(with_weights(nn.Sequential(nn.Linear(3, 4), make(), nn.Linear(4, 2)), 0), (3,)), [2])
    sent = pickle.loads(pickle.dumps(network))
    x = torch.randn(5, 3, dtype=torch.float64)
    assert sent.digest == network.digest
    assert torch.equal(sent.forward(x), network.forward(x))


def test_any_executor_will_do() -> None:
    models = nets()
    with ThreadPoolExecutor(2) as executor:
        reports = lipguard.certify_many(models, (4,), executor=executor)
    assert [report.bound for report in reports] == pytest.approx(alone(models), rel=1e-6)


class Gone(Executor):
    """Its scheduler is gone, at once or with the futures."""

    def __init__(self, at_once: bool) -> None:
        self.at_once = at_once

    def submit(self, *arguments: Any, **named: Any) -> Future[Any]:  # type: ignore[override]
        if self.at_once:
            raise ConnectionError("no scheduler")
        future: Future[Any] = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future


class Silent(Executor):
    """Its scheduler does not answer."""

    def submit(self, *arguments: Any, **named: Any) -> Future[Any]:  # type: ignore[override]
        return Future()


@pytest.mark.parametrize("executor", [Gone(True), Gone(False), Silent()], ids=["at once", "later", "silent"])
def test_an_executor_that_is_gone_is_replaced(executor: Executor, caplog: pytest.LogCaptureFixture) -> None:
    models = nets(2)
    reports = lipguard.certify_many(models, (4,), executor=executor, patience=0.2)
    assert [report.bound for report in reports] == pytest.approx(alone(models), rel=1e-6)
    assert "they run here" in caplog.text


def _dies(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow  # what runs jobs in processes is tested with its own
def test_networks_whose_processes_die_have_their_product(monkeypatch: pytest.MonkeyPatch) -> None:
    models = nets(2)
    monkeypatch.setattr(many, "certified", _dies)
    reports = lipguard.certify_many(models, (4,), DCPConfig(workers=2))
    for model, report in zip(models, reports, strict=True):
        assert report.bound == report.product_bound
        assert report.status.startswith("fallback: ")
        assert lipguard.verify(report.certificate, model) == report.bound


def test_processes_need_loky(monkeypatch: pytest.MonkeyPatch) -> None:
    from lipguard.proposing import processes as executing

    monkeypatch.setattr(executing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"lipguard\[parallel\]"):
        lipguard.certify_many(nets(2), (4,), DCPConfig(workers=2))
    assert len(lipguard.certify_many(nets(2), (4,))) == 2
