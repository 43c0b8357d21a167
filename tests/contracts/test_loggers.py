"""What every kind of logger in the table keeps to; a new row is tested by being there."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lipguard
from lipguard.callbacks.loggers import LOGGERS, Loggers
from lipguard.callbacks.loggers.logger import Logger
from lipguard.callbacks.messages import Messages
from lipguard.callbacks.record import Record
from lipguard.callbacks.rows import KEYS

PREFIX, EPSILONS = "own/prefix", (0.1, 0.25)
EVERY_KIND = pytest.mark.parametrize("kind", LOGGERS)
ROW = {"epoch": 0, "bound": 2.0, "product_bound": 3.0, "lower_bound": 1.0, "accuracy": 0.5}
# What the kind's logger writes to, where its package is installed.
REAL = {
    "TensorBoardLogger": ("torch.utils.tensorboard", "SummaryWriter"),
    "WandbLogger": ("wandb", "Run"),
}


class Experiment:
    """Takes down every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, method: str) -> Any:
        return lambda *args, **kwargs: self.calls.append((method, (args, kwargs)))


class Refusing:
    """Takes nothing."""

    def __getattr__(self, method: str) -> Any:
        raise OSError("no space left on device")


class Artifact:
    def __init__(self, name: str, kind: str, metadata: Mapping[str, Any]) -> None:
        self.name, self.metadata = name, metadata

    def add_file(self, path: str) -> None:
        assert lipguard.Certificate.load(path).digest == self.metadata["digest"]


def own(kind: str, experiment: Any) -> Any:
    """A logger of Lightning's, as far as the monitor knows it."""
    logged: list[Any] = []
    methods = {"experiment": experiment, "logged": logged, "log_metrics": lambda self, *a, **k: logged.append((a, k))}
    return type(kind, (), methods)()


@pytest.fixture(scope="module")
def report() -> lipguard.Report:
    return lipguard.certify(torch.nn.Linear(2, 2), (2,))


@pytest.fixture
def record(report: lipguard.Report, monkeypatch: pytest.MonkeyPatch) -> Record:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Artifact=Artifact))  # type: ignore[arg-type]
    found = Record(history=[dict(ROW)])
    found.learn(report)
    return found


def lived(loggers: Loggers, trainer: Any, record: Record, epsilons: tuple[float, ...] = EPSILONS) -> None:
    """A fit, as loggers see it."""
    loggers.prepare(trainer, epsilons)
    loggers.show(trainer, record.history, ([0.0, 0.5], [0.9, 0.1]) if epsilons else None)
    loggers.finish(trainer, record, None)


@EVERY_KIND
@pytest.mark.parametrize("epsilons", [EPSILONS, ()], ids=["certified accuracy", "none"])
def test_all_that_it_leaves_has_the_prefix(kind: str, record: Record, epsilons: tuple[float, ...]) -> None:
    experiment = Experiment()
    trainer = SimpleNamespace(loggers=[own(kind, experiment)], global_step=7)
    lived(Loggers(PREFIX, Messages("M")), trainer, record, epsilons)
    assert experiment.calls
    for method, arguments in experiment.calls:
        written = json.dumps(arguments, default=lambda value: getattr(value, "name", ""))
        assert PREFIX in written, method
    if not epsilons:
        assert "certified_accuracy" not in json.dumps(experiment.calls, default=str)


@EVERY_KIND
def test_it_can_be_told_nothing_and_told_twice(kind: str, record: Record) -> None:
    trainer = SimpleNamespace(loggers=[own(kind, Experiment())], global_step=0)
    loggers = Loggers(PREFIX, Messages("M"))
    lived(loggers, trainer, Record(), ())
    lived(loggers, trainer, record)
    lived(loggers, trainer, record)


@EVERY_KIND
def test_it_calls_what_its_experiment_has(kind: str, record: Record) -> None:
    module, name = REAL[kind]
    experiment = Experiment()
    trainer = SimpleNamespace(loggers=[own(kind, experiment)], global_step=7)
    lived(Loggers(PREFIX, Messages("M")), trainer, record)
    sys.modules.pop("wandb")
    real = getattr(pytest.importorskip(module), name)
    for method, (args, kwargs) in experiment.calls:
        inspect.signature(getattr(real, method)).bind(None, *args, **kwargs)


@EVERY_KIND
def test_one_that_fails_costs_its_own_figures(kind: str, record: Record) -> None:
    whole = Experiment()
    trainer = SimpleNamespace(loggers=[own(kind, Refusing()), own(kind, whole)], global_step=7)
    with pytest.warns(UserWarning, match="M: A logger took no figures or artifacts, training goes on. OSError") as seen:
        lived(Loggers(PREFIX, Messages("M")), trainer, record)
    assert len(seen) == 1
    assert whole.calls


@EVERY_KIND
def test_a_class_derived_from_it_is_one(kind: str, record: Record) -> None:
    experiment = Experiment()
    derived = type("Mine", (type(own(kind, experiment)),), {})()
    lived(Loggers(PREFIX, Messages("M")), SimpleNamespace(loggers=[derived], global_step=7), record)
    assert experiment.calls


def test_others_take_late_values_and_nothing_else(record: Record) -> None:
    experiment = Experiment()
    other = own("CSVLogger", experiment)
    trainer, loggers = SimpleNamespace(loggers=[other], global_step=7), Loggers(PREFIX, Messages("M"))
    lived(loggers, trainer, record)
    assert not experiment.calls
    loggers.log_late(trainer, {"own/prefix/bound": 2.0}, 3)
    assert other.logged == [(({"own/prefix/bound": 2.0},), {"step": 3})]


@EVERY_KIND
def test_a_method_that_is_missing_is_noticed_at_once(kind: str) -> None:
    for method in Logger.__abstractmethods__:
        lacking = type("Lacking", (LOGGERS[kind],), {method: getattr(Logger, method)})
        with pytest.raises(TypeError, match=method):
            lacking(Experiment(), PREFIX)


def test_summaries_keep_the_best() -> None:
    experiment = Experiment()
    trainer = SimpleNamespace(loggers=[own("WandbLogger", experiment)])
    Loggers("p", Messages("M")).prepare(trainer, (0.25,))
    found = {args[0]: kwargs["summary"] for _, (args, kwargs) in experiment.calls}
    better = {"smaller": "min", "larger": "max"}
    assert found == {
        f"p/{name}": better[key.better]
        for key in KEYS
        if key.better is not None and key.when != "request"
        for name in key.names((0.25,))
    }
    assert found["p/bound"] == "min"
    assert found["p/certified_accuracy_eps_0.25"] == found["p/tightness"] == "max"


def test_every_kind_has_a_file_of_its_own() -> None:
    homes = [kind.__module__ for kind in LOGGERS.values()]
    assert len(set(homes)) == len(homes)
    assert all(importlib.import_module(home).__doc__ for home in homes)
