"""The contract of proposers: whatever one hands over, and wherever it is stopped, a bound gets loose and never false.

Everything goes in where users have a door: settings, warm starts, executors, Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import Residual, with_weights
from helpers.sandwich import assert_between, assert_sandwich, drawn
from numpy.typing import NDArray
from torch import nn
from torch.overrides import TorchFunctionMode

import lipguard
from lipguard import DCPConfig
from lipguard.config import SOLVERS
from lipguard.errors import CertificateError

Array = NDArray[np.float64]
EACH = pytest.mark.parametrize("solver", SOLVERS)
BY_EXECUTORS = [solver for solver in SOLVERS if solver != "power"]
CLOSE = 1e-3  # of Clarabel's optimum, relatively


def dense(activation: nn.Module) -> tuple[nn.Module, tuple[int, ...]]:
    layers = [nn.Linear(4, 7), activation, nn.Linear(7, 5), activation, nn.Linear(5, 3)]
    return with_weights(nn.Sequential(*layers), 0), (4,)


def residual(activation: nn.Module) -> tuple[nn.Module, tuple[int, ...]]:
    body = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 4))
    return with_weights(nn.Sequential(Residual(body, nn.Identity()), activation, nn.Linear(4, 2)), 0), (4,)


def convolutional(activation: nn.Module) -> tuple[nn.Module, tuple[int, ...]]:
    layers = [nn.Conv2d(1, 2, 3, 2, 1), nn.BatchNorm2d(2), activation, nn.AvgPool2d(2, 1), nn.Flatten()]
    return with_weights(nn.Sequential(*layers, nn.Linear(4, 6), activation, nn.Linear(6, 3)), 0), (1, 5, 4)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return dense(nn.ReLU())[0]


@pytest.fixture(scope="module")
def good(model: nn.Module) -> dict[str, lipguard.Report]:
    return {solver: assert_sandwich(model, (4,), DCPConfig(solver=solver)) for solver in SOLVERS}


@pytest.mark.parametrize("build", [dense, residual, convolutional])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2), nn.Sigmoid(), nn.LeakyReLU(-0.5)], ids=str)
def test_good_ones_meet_the_optimum(
    build: Callable[..., tuple[nn.Module, tuple[int, ...]]], activation: nn.Module
) -> None:
    model, shape = build(activation)
    exact = DCPConfig(solver="clarabel", partition="none", tolerance=1e-6, max_iterations=200)
    optimum = assert_sandwich(model, shape, exact).bound
    for solver in SOLVERS:
        report = assert_sandwich(
            model, shape, DCPConfig(solver=solver, partition="none", tolerance=1e-4, max_iterations=20_000)
        )
        assert optimum * (1 - 1e-5) <= report.bound <= optimum * (1 + CLOSE), solver
        assert report.status == "complete"


@EACH
def test_the_same_settings_give_the_same_bound(model: nn.Module, good: dict[str, lipguard.Report], solver: str) -> None:
    assert lipguard.certify(model, (4,), DCPConfig(solver=solver)).bound == good[solver].bound


GARBAGE: dict[str, Callable[[Array], Array]] = {
    "zeros": np.zeros_like, "ones": np.ones_like, "negative": lambda t: -t, "huge": lambda t: 1e300 * t,
    "tiny": lambda t: 1e-300 * t, "too small": lambda t: 1e-3 * t, "nan": lambda t: np.full_like(t, np.nan),
    "infinite": lambda t: np.full_like(t, np.inf), "one nan": lambda t: np.append(t[:-1], np.nan),
    "one zero": lambda t: np.append(t[:-1], 0.0), "turned": lambda t: t[::-1].copy(),
    "noise": lambda t: np.random.default_rng(0).lognormal(0, 9, len(t)),
}  # fmt: skip


@EACH
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_that_is_only_proved_is_loose(
    model: nn.Module, good: dict[str, lipguard.Report], solver: str, garbage: str
) -> None:
    """By way of a warm start, whose multipliers are taken as they are."""
    start = spoiled(good[solver], GARBAGE[garbage])
    report = lipguard.certify(model, (4,), DCPConfig(solver=solver), start, optimise=False)
    assert_between(model, report, drawn((4,)))
    assert good[solver].bound * (1 - CLOSE) <= report.bound


@EACH
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_to_start_from_costs_nothing(
    model: nn.Module, good: dict[str, lipguard.Report], solver: str, garbage: str
) -> None:
    """Multipliers and the solver's own state: who goes on from them comes to where others come to, or begins anew."""
    start = spoiled(good[solver], GARBAGE[garbage])
    report = lipguard.certify(model, (4,), DCPConfig(solver=solver), start)
    assert_between(model, report, drawn((4,)))
    assert good[solver].bound * (1 - CLOSE) <= report.bound <= report.product_bound


@np.errstate(over="ignore")  # of a state in single precision
def spoiled(report: lipguard.Report, garbage: Callable[[Array], Array]) -> Any:
    start, certificate = report.warm_start, report.certificate
    multipliers = tuple(tuple(garbage(t) for t in parts) for parts in certificate.multipliers)
    states = {
        key: {name: garbage(v.ravel().astype(np.float64)).reshape(v.shape).astype(v.dtype) for name, v in state.items()}
        for key, state in start.solver_state.items()
    }
    return dataclasses.replace(
        start, certificate=dataclasses.replace(certificate, multipliers=multipliers), solver_state=states
    )


class Spoiling(Executor):
    """Does what it is given, and hands something else over."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        self.change, self.calls = change, 0

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.calls += 1
        future: Future[Any] = Future()
        future.set_result(self.change(work(*args, **kwargs)))
        return future


@pytest.mark.parametrize("solver", BY_EXECUTORS)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_that_a_worker_hands_over_is_loose(
    model: nn.Module, good: dict[str, lipguard.Report], solver: str, garbage: str
) -> None:
    executor = Spoiling(lambda found: dataclasses.replace(found, multipliers=GARBAGE[garbage](found.multipliers)))
    report = lipguard.certify(model, (4,), DCPConfig(solver=solver), executor=executor)
    assert executor.calls
    assert_between(model, report, drawn((4,)))
    assert good[solver].bound * (1 - CLOSE) <= report.bound


@pytest.mark.parametrize("solver", BY_EXECUTORS)
@pytest.mark.parametrize("value", [0.0, 1e-300, -1.0, 1e300, np.nan, np.inf])
def test_a_value_that_is_a_lie_is_not_believed(
    model: nn.Module, good: dict[str, lipguard.Report], solver: str, value: float
) -> None:
    executor = Spoiling(lambda found: dataclasses.replace(found, value=value))
    report = lipguard.certify(model, (4,), DCPConfig(solver=solver), executor=executor)
    assert_between(model, report, drawn((4,)))
    assert good[solver].bound * (1 - CLOSE) <= report.bound


@EACH
@pytest.mark.parametrize(
    "stop", [{"max_iterations": 1}, {"max_iterations": 3}, {"max_seconds": 1e-9}, {"max_seconds": 0.02}]
)
def test_one_that_is_stopped_early_is_loose(model: nn.Module, solver: str, stop: dict[str, Any]) -> None:
    assert_sandwich(model, (4,), DCPConfig(solver=solver, **stop))


class Interrupting(TorchFunctionMode):
    """Ctrl-C at the n-th call of torch."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.calls = at, 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return function(*args, **(kwargs or {}))


def interrupted(model: nn.Module, config: DCPConfig, moments: int) -> Iterator[lipguard.Report]:
    """The reports of certifications that are interrupted at so many moments; some end before there is any."""
    with Interrupting(-1) as mode:
        lipguard.certify(model, (4,), config)
    for k in range(moments):
        try:
            with Interrupting(mode.calls * (2 * k + 1) // (2 * moments)):
                yield lipguard.certify(model, (4,), config)
        except KeyboardInterrupt:  # while the model is read, or at the search for the lower bound: nothing is lost
            continue


def test_one_that_is_interrupted_is_loose(model: nn.Module, good: dict[str, lipguard.Report]) -> None:
    """At any moment of the iteration, which runs in this process, and of the proofs."""
    reports = list(interrupted(model, DCPConfig(), 24))
    assert any(report.status.startswith("interrupted") for report in reports)
    for report in reports:
        assert_between(model, report, drawn((4,)))
        assert good["power"].bound * (1 - CLOSE) <= report.bound


@pytest.mark.parametrize("solver", BY_EXECUTORS)
def test_ctrl_c_while_a_worker_solves(model: nn.Module, solver: str) -> None:
    def interrupt(found: Any) -> Any:
        raise KeyboardInterrupt

    report = lipguard.certify(model, (4,), DCPConfig(solver=solver), executor=Spoiling(interrupt))
    assert report.status.startswith("interrupted")
    assert_between(model, report, drawn((4,)))
    assert report.bound == report.product_bound


@EACH
def test_a_network_of_weights_that_no_solver_likes(solver: str) -> None:
    """Layers of very different size, a dead neuron, two of the same."""
    for scale, dead in itertools.product((1e-6, 1e6), (0, 2)):
        model, shape = dense(nn.ReLU())
        with torch.no_grad():
            model[0].weight *= scale  # type: ignore[index]
            model[dead].weight[0] = 0  # type: ignore[index]
            model[2].weight[1] = model[2].weight[2]  # type: ignore[index]
        try:
            assert_sandwich(model, shape, DCPConfig(solver=solver))
        except CertificateError as error:
            pytest.fail(str(error))
