"""Multipliers of an iteration that was cut short, before and after they are adjusted; by dense linear algebra."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.claims import smallest_eigenvalue
from helpers.networks import Residual, Sample, networks, with_weights
from hypothesis import assume, given, settings
from torch import nn

from lipguard.proposing.feasible import in_span as adjustment
from lipguard.proposing.feasible.in_span import adjusted_in_span
from lipguard.proposing.power.options import PowerOptions
from lipguard.proposing.power.run import propose
from lipguard.proposing.proposal import Directions, Proposal
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.trace import trace


def dense(activation: nn.Module) -> Network:
    model = nn.Sequential(nn.Linear(10, 20), activation, nn.Linear(20, 15), activation, nn.Linear(15, 5))
    return trace(with_weights(model, 0), (10,))


def residual(activation: nn.Module) -> Network:
    body = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), activation, nn.Conv2d(3, 2, 3, padding=1))
    model = nn.Sequential(Residual(body, nn.Identity()), activation, nn.Flatten(), nn.Linear(60, 4))
    return trace(with_weights(model, 1), (2, 6, 5))


def convolutional(activation: nn.Module) -> Network:
    layers = [nn.Conv2d(1, 3, 3), activation, nn.Conv2d(3, 4, 3, stride=2, padding=1), activation, nn.Flatten()]
    return trace(with_weights(nn.Sequential(*layers, nn.Linear(36, 3)), 2), (1, 8, 7))


def cut_short(network: Network, steps: int, dtype: torch.dtype = torch.float64) -> tuple[Proposal, Directions]:
    proposal = propose(network, PowerOptions(max_iterations=steps, tolerance=0.0, dtype=dtype))
    assert proposal.multipliers is not None
    assert proposal.directions is not None
    return proposal, proposal.directions


@pytest.mark.parametrize("build", [dense, residual, convolutional])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2), nn.Tanh(), nn.LeakyReLU(-0.3)], ids=str)
@pytest.mark.parametrize("steps", [25, 40])
def test_no_more_is_missing_afterwards_than_before(build: object, activation: nn.Module, steps: int) -> None:
    network = build(activation)  # type: ignore[operator]
    proposal, directions = cut_short(network, steps)
    rho, t = proposal.value**2, proposal.multipliers
    found, deficit = adjusted_in_span(network, t, rho, directions)
    before, after = (-smallest_eigenvalue(network, own, rho) for own in (t, found))
    assert (found >= 0).all()
    assert after <= 1.1 * before + 1e-6
    assert deficit >= 0.5 * after


def test_most_of_what_is_missing_is_saved_close_to_the_end() -> None:
    saved = []
    for build in (dense, residual, convolutional):
        network = build(nn.ReLU())
        proposal, directions = cut_short(network, 45)
        found, _ = adjusted_in_span(network, proposal.multipliers, proposal.value**2, directions)
        before, after = (-smallest_eigenvalue(network, t, proposal.value**2) for t in (proposal.multipliers, found))
        saved.append(max(after, 0.0) / before)
    assert np.median(saved) < 0.3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("chunk", [7, 4096])
def test_at_the_end_nothing_is_left_to_do(dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single precision's noise is not mistaken for something to mend."""
    monkeypatch.setattr(adjustment, "_CHUNK", chunk)
    for build in (dense, convolutional):
        network = build(nn.ReLU())
        proposal, directions = cut_short(network, 400, dtype)
        found, deficit = adjusted_in_span(network, proposal.multipliers, proposal.value**2, directions)
        np.testing.assert_allclose(found, proposal.multipliers, rtol=1e-2)
        assert deficit < 1e-3
        assert smallest_eigenvalue(network, found, proposal.value**2) > -1e-4


def test_neurons_may_be_dead() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    with_weights(model, 0)
    with torch.no_grad():
        model[0].weight[:3] = 0  # nothing reaches them
        model[4].weight[:, :2] = 0  # nothing comes from them
    network = trace(model, (5,))
    proposal, directions = cut_short(network, 30)
    found, deficit = adjusted_in_span(network, proposal.multipliers, proposal.value**2, directions)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert 0 <= deficit < 0.1


def test_multipliers_of_zero_stay_zero() -> None:
    network = dense(nn.ReLU())
    proposal, directions = cut_short(network, 30)
    t = proposal.multipliers.copy()
    t[3] = 0.0
    found, _ = adjusted_in_span(network, t, proposal.value**2, directions)
    assert found[3] == 0
    assert np.isfinite(found).all()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e200])
def test_directions_that_are_no_use(value: float) -> None:
    network = dense(nn.ReLU())
    proposal, directions = cut_short(network, 30)
    wrong = Directions(np.full_like(directions.values, value), np.full_like(directions.pre_activations, value))
    found, deficit = adjusted_in_span(network, proposal.multipliers, proposal.value**2, wrong)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert deficit >= 0
    one = dataclasses.replace(directions, values=directions.values * (np.arange(8) == 0)[:, None])
    found, _ = adjusted_in_span(network, proposal.multipliers, proposal.value**2, one)
    assert np.isfinite(found).all()


@settings(max_examples=40)
@given(networks())
def test_networks_of_all_kinds(sample: Sample) -> None:
    network = trace(sample.model, sample.input_shape)
    proposal = propose(network, PowerOptions(max_iterations=20, tolerance=0.0))
    assume(proposal.multipliers is not None and proposal.value > 0 and proposal.directions is not None)
    found, deficit = adjusted_in_span(network, proposal.multipliers, proposal.value**2, proposal.directions)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (found <= 1.5 * proposal.multipliers).all()
    assert (found >= 0.5 * proposal.multipliers).all()
    assert deficit >= 0
