"""Margins by layer: enough, and cheaper than a clearance for all layers alike."""

import math

import numpy as np
import pytest
import torch
from helpers.claims import proposed, smallest_eigenvalue, smallest_rho
from helpers.networks import Residual, with_weights
from numpy.typing import NDArray
from torch import nn

from lipguard.proposing.feasible.by_layer import enlarged_as_needed
from lipguard.proposing.feasible.uniform import enlarged_uniformly
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.trace import trace

Array = NDArray[np.float64]
STEPS, ROUNDS = 60, 6


def deep(seed: int) -> Network:
    layers = [layer for _ in range(8) for layer in (nn.Linear(6, 6), nn.ReLU())]
    return trace(with_weights(nn.Sequential(*layers, nn.Linear(6, 3)), seed), (6,))


def residual(seed: int) -> Network:
    blocks = [
        Residual(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU()), nn.Identity()) for _ in range(4)
    ]
    return trace(with_weights(nn.Sequential(*blocks, nn.Linear(5, 3)), seed), (5,))


def spoiled(network: Network, seed: int) -> tuple[Array, float, float]:
    """Multipliers whose first layer is too small, their rho, and the smallest eigenvalue of their matrix."""
    t, _ = proposed(network, 1e-3)
    rho = smallest_rho(network, t) * (1 + 1e-9)
    first = network.nodes[network.activations[0]].size
    t[:first] *= 1 + 0.05 * np.random.default_rng(seed).uniform(-1, 0, first)
    return t, rho, smallest_eigenvalue(network, t, rho)


@pytest.mark.parametrize("build", [deep, residual])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_missing_on_a_layer_costs_less_than_a_margin_for_all(build: object, seed: int) -> None:
    assert callable(build)
    network, wanted = build(seed), 1e-3
    t, rho, smallest = spoiled(network, seed)
    assert smallest < 0
    larger, claimed, missing = enlarged_as_needed(network, t, rho, wanted, STEPS, ROUNDS, 1e-4)
    assert smallest_eigenvalue(network, larger, claimed) >= wanted - missing - 1e-9
    total = enlarged_uniformly(network, larger, claimed, (1 - missing) ** -2 - 1)
    assert smallest_eigenvalue(network, *total) >= 0.9 * wanted
    alike = enlarged_uniformly(network, t, rho, (1 - (wanted - smallest)) ** -2 - 1)[1]
    assert math.log(total[1] / rho) < 0.8 * math.log(alike / rho)


def test_without_rounds_nothing_changes_but_what_is_missing_is_known() -> None:
    network = deep(0)
    t, rho, smallest = spoiled(network, 0)
    same, claimed, missing = enlarged_as_needed(network, t, rho, 1e-3, STEPS, 0, 1e-4)
    assert claimed == rho
    np.testing.assert_allclose(same, t, rtol=1e-12)
    assert missing == pytest.approx(1e-3 - smallest, rel=1e-3)


def test_what_is_feasible_with_room_is_left_alone() -> None:
    network = deep(1)
    t, rho = enlarged_uniformly(network, *spoiled(network, 1)[:2], 0.2)
    same, claimed, missing = enlarged_as_needed(network, t, rho, 1e-3, STEPS, ROUNDS, 1e-4)
    assert missing == 0
    assert claimed == rho
    np.testing.assert_array_equal(same, t)


def test_a_network_without_activations() -> None:
    network = trace(with_weights(nn.Linear(4, 3), 0), (4,))
    norm = float(torch.linalg.matrix_norm(network.nodes[-1].layer.weight, 2))  # type: ignore[attr-defined]
    _, claimed, missing = enlarged_as_needed(network, np.zeros(0), 0.9 * norm**2, 1e-3, STEPS, ROUNDS, 1e-6)
    assert (1 - missing) ** -4 * claimed >= norm**2


@pytest.mark.parametrize("rho", [math.inf, math.nan, 0.0])
def test_what_is_not_finite_is_given_back(rho: float) -> None:
    network = deep(2)
    t = np.ones(network.neurons)
    same, claimed, missing = enlarged_as_needed(network, t, rho, 1e-3, STEPS, ROUNDS, 1e-4)
    assert same is t
    assert claimed is rho
    assert missing == math.inf


def test_what_single_precision_cannot_hold_is_done_in_double() -> None:
    network = residual(0)
    t, rho, _ = spoiled(network, 0)
    unit = 1e45  # of the output, squared: a claim in other units
    with torch.no_grad():
        network.nodes[-1].layer.weight.mul_(unit**0.5)  # type: ignore[attr-defined]
    arguments = (network, unit * t, unit * rho, 1e-3, STEPS, ROUNDS, 1e-4)
    (one, claimed, missing), other = enlarged_as_needed(*arguments, dtype=torch.float32), enlarged_as_needed(*arguments)
    np.testing.assert_array_equal(one, other[0])
    assert (claimed, missing) == other[1:]
    assert missing < 0.1


def test_single_precision_comes_to_about_the_same() -> None:
    network = residual(1)
    t, rho, _ = spoiled(network, 1)
    totals = []
    for dtype in (torch.float32, torch.float64):
        larger, claimed, missing = enlarged_as_needed(network, t, rho, 1e-3, STEPS, ROUNDS, 1e-4, dtype=dtype)
        totals.append(enlarged_uniformly(network, larger, claimed, (1 - missing) ** -2 - 1)[1])
    assert totals[0] == pytest.approx(totals[1], rel=1e-3)
