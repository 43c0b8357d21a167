"""Ctrl-C and budgets: what is proved until then is the result."""

import pytest
from helpers.claims import proposed
from helpers.networks import with_weights
from torch import nn

import lipguard
from lipguard import certification
from lipguard.certificate import randomised
from lipguard.network.form import ScaledForm
from lipguard.network.trace import trace
from lipguard.solvers import power


def cnn() -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)]
    return with_weights(nn.Sequential(*layers), 0)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    done, step = [0], power._Iteration.step

    def counted(self: power._Iteration, momentum: float) -> float:
        done[0] += 1
        if done[0] == steps:
            raise KeyboardInterrupt
        return step(self, momentum)

    monkeypatch.setattr(power._Iteration, "step", counted)


def test_an_interrupted_iteration_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = lipguard.certify(cnn(), (1, 12, 12))
    interrupt_after(monkeypatch, 40)
    report = lipguard.certify(cnn(), (1, 12, 12))
    assert report.status == "interrupted"
    assert complete.bound * (1 - 1e-3) <= report.bound < 0.9 * report.product_bound
    assert lipguard.verify(report.certificate, cnn()) == report.bound


def test_interrupted_at_once_leaves_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_after(monkeypatch, 1)
    report = lipguard.certify(cnn(), (1, 12, 12))
    assert report.status.startswith("interrupted")
    assert report.bound == report.product_bound


def test_an_interrupted_proof_leaves_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(certification, "proves", interrupted)
    report = lipguard.certify(cnn(), (1, 12, 12))
    assert report.status.startswith("interrupted")
    assert report.bound == report.product_bound
    assert lipguard.verify(report.certificate, cnn()) == report.bound


def test_a_randomised_proof_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(randomised.time, "monotonic", lambda: float(next(clock)))
    network = trace(cnn(), (1, 12, 12))
    form, seed = ScaledForm(network, *proposed(network, 0.5)), b"0"
    steps = randomised.steps_needed(form.n, 0.1, 2.1, 1e-12)
    assert steps < 100
    assert randomised.is_positive_semidefinite_randomly(form, 0.1, 1e-12, seed, 1e6) is True
    assert randomised.is_positive_semidefinite_randomly(form, 0.1, 1e-12, seed, 0.0) is False
