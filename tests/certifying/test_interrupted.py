"""Ctrl-C and budgets: what is proved until then is the result."""

import logging
from typing import Any

import pytest
import torch
from helpers.claims import proposed
from helpers.networks import with_weights
from torch import nn

import lipguard
from lipguard import DCPConfig
from lipguard.certifying import subject
from lipguard.certifying.attempts import claims
from lipguard.certifying.hints import HINTS
from lipguard.planning.prices import iteration as iteration_price
from lipguard.planning.prices import sparse
from lipguard.proposing.power import iteration
from lipguard.proposing.power import run as power
from lipguard.proposing.power.options import PowerOptions
from lipguard.proposing.proposal import Proposal
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs import randomised
from lipguard.trusted.reading.trace import trace


def cnn() -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)]
    return with_weights(nn.Sequential(*layers), 0)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    done, step = [0], iteration.Iteration.step

    def counted(self: iteration.Iteration, momentum: float) -> float:
        done[0] += 1
        if done[0] == steps:
            raise KeyboardInterrupt
        return step(self, momentum)

    monkeypatch.setattr(iteration.Iteration, "step", counted)


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


def test_after_an_interrupted_search_by_channels_there_is_none_by_neurons(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (iteration_price, sparse, subject):
        monkeypatch.setattr(module, "LARGE", 100)
    searches, propose = [], power.propose

    def counted(part: Network, options: PowerOptions, *start: Any) -> Proposal:
        searches.append(options.tied)
        return propose(part, options, *start)

    monkeypatch.setattr(power, "propose", counted)
    layers = [m for i in range(9) for m in (nn.Conv2d(2 if i else 1, 2, 3, padding=1), nn.ReLU())]
    model = with_weights(nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 3)), 0)
    interrupt_after(monkeypatch, 5)
    report = lipguard.certify(model, (1, 8, 8))
    assert report.plan.blocks[0].multipliers == "both"
    assert searches == [True]
    assert report.status.is_interrupted
    assert lipguard.verify(report.certificate, model) == report.bound


def test_an_interrupted_proof_leaves_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(claims, "proves", interrupted)
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
    assert randomised.is_positive_semidefinite_randomly(form, HINTS, 0.1, 1e-12, seed, 1e6) is True
    with pytest.raises(randomised.OutOfTimeError):
        randomised.is_positive_semidefinite_randomly(form, HINTS, 0.1, 1e-12, seed, 0.0)


@pytest.mark.parametrize("pause", [0.04, 10.0])
def test_a_proof_that_slows_down_takes_a_larger_margin(
    pause: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process takes the cores once the time of a step has been measured."""
    clock, steps, own = [0.0], [0], ScaledForm.__call__
    real = randomised.time.monotonic

    def slower(form: ScaledForm, z: torch.Tensor) -> torch.Tensor:
        steps[0] += 1
        if steps[0] > 60:
            clock[0] += pause
        return own(form, z)

    monkeypatch.setattr(ScaledForm, "__call__", slower)
    monkeypatch.setattr(randomised.time, "monotonic", lambda: real() + clock[0])
    with caplog.at_level(logging.INFO):
        report = lipguard.certify(cnn(), (1, 12, 12), DCPConfig(proof="randomised", max_seconds=8.0))
    assert pause > 1 or "would be late" in caplog.text
    assert (report.bound < report.product_bound) == (pause < 1)
    monkeypatch.setattr(ScaledForm, "__call__", own)
    assert lipguard.verify(report.certificate, cnn()) == report.bound
