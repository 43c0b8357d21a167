import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.claims import matrix, proposed, smallest_eigenvalue, smallest_rho
from helpers.networks import Residual, with_weights
from numpy.typing import NDArray
from torch import nn

from lipguard.proposing.feasible.schur import form_norm
from lipguard.proposing.feasible.uniform import enlarged_by_layer, enlarged_uniformly, enlarged_until_feasible
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.trace import trace


def freed_network(perturbation: float = 0.0, unread: int | None = None) -> FreedNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += perturbation * torch.randn_like(parameter)
        if unread is not None:
            model[2].weight[:, unread] = 0
    return FreedNetwork.assemble(trace(model, (4,)))


def mend(freed: FreedNetwork, t: np.ndarray, enough: float = 0.0) -> tuple[np.ndarray, float]:
    mended = enlarged_until_feasible(t, [5, 6], lambda t: form_norm(freed, t), enough)
    assert mended is not None
    assert mended[1] == form_norm(freed, mended[0])
    return mended


def good_multipliers(freed: FreedNetwork) -> np.ndarray:
    return mend(freed, np.repeat([2.0, 0.5], [5, 6]))[0]


def test_multipliers_slightly_too_small_become_feasible_at_little_cost() -> None:
    freed = freed_network()
    t = good_multipliers(freed)
    smallest = t * 1e-3
    while not np.isfinite(form_norm(freed, smallest)):
        smallest = smallest * 1.01
    infeasible = smallest * 0.98
    assert form_norm(freed, infeasible) == np.inf
    assert np.isfinite(mend(freed, infeasible)[1])


def test_good_multipliers_are_never_made_worse() -> None:
    freed = freed_network()
    t = good_multipliers(freed)
    assert mend(freed, t)[1] <= form_norm(freed, t)


def test_multipliers_of_slightly_other_weights_are_mended() -> None:
    t = good_multipliers(freed_network())
    assert np.isfinite(mend(freed_network(0.05), t)[1])


def test_zero_multipliers_get_a_floor_so_that_no_neuron_is_free() -> None:
    freed = freed_network(unread=2)
    t = good_multipliers(freed)
    t[2] = 0  # as a solver leaves a neuron that nothing reads
    assert form_norm(freed, t) == np.inf
    assert (mend(freed, t)[0] > 0).all()


def test_the_search_ends_at_what_is_enough() -> None:
    freed = freed_network()
    t = good_multipliers(freed)
    calls: list[int] = []

    def counted(t: np.ndarray) -> float:
        calls.append(1)
        return form_norm(freed, t)

    enlarged_until_feasible(t, [5, 6], counted, enough=form_norm(freed, t) * 1.001)
    assert len(calls) == 1


def test_where_nothing_helps_there_is_no_answer() -> None:
    assert enlarged_until_feasible(np.ones(3), [3], lambda t: np.inf) is None


@pytest.mark.parametrize("layers", [[11], [5, 6]])
def test_earlier_layers_grow_by_more(layers: list[int]) -> None:
    seen: list[np.ndarray] = []

    def record(t: np.ndarray) -> float:
        seen.append(t)
        return np.inf

    enlarged_until_feasible(np.ones(11), layers, record)
    assert (seen[-1][0] / seen[-1][-1] > 1.5) == (len(layers) == 2)


def chain(activation: nn.Module, seed: int) -> Network:
    widths = [int(n) for n in np.random.default_rng(seed).integers(2, 8, 4)]
    layers = [[nn.Linear(a, b), activation] for a, b in itertools.pairwise(widths)]
    model = nn.Sequential(*(layer for pair in layers for layer in pair), nn.Linear(widths[-1], 3))
    return trace(with_weights(model, seed), (widths[0],))


def residual(activation: nn.Module, seed: int) -> Network:
    """A skip around a skip."""
    inner = Residual(
        nn.Sequential(nn.Linear(5, 6), activation, nn.Linear(6, 5), activation, nn.Linear(5, 5)), nn.Linear(5, 5)
    )
    outer = Residual(nn.Sequential(inner, activation, nn.Linear(5, 5)), nn.Identity())
    return trace(with_weights(nn.Sequential(outer, activation, nn.Linear(5, 3)), seed), (5,))


def just_feasible(network: Network) -> tuple[NDArray[np.float64], float]:
    t, _ = proposed(network, 1e-3)
    rho = smallest_rho(network, t) * (1 + 1e-9)
    assert np.isfinite(rho)
    assert smallest_eigenvalue(network, t, rho) < 1e-6
    return t, rho


# What is left of the clearance: slopes that do not reach zero weigh what a layer reads, which grows less than it
# should.
SHARES = [(nn.ReLU(), 1.0), (nn.ELU(2.0), 1.0), (nn.LeakyReLU(-0.5), 1.0), (nn.LeakyReLU(0.01), 0.9)]
SHARES += [(nn.LeakyReLU(0.2), 0.6)]


@pytest.mark.parametrize("step", [1e-4, 1e-2, 0.3])
@pytest.mark.parametrize(("activation", "share"), SHARES, ids=str)
def test_an_enlargement_gives_what_is_feasible_a_margin(activation: nn.Module, share: float, step: float) -> None:
    clearance = 1 - (1 + step) ** -0.5  # about half the step
    for seed in range(6):
        network = chain(activation, seed)
        t, rho = enlarged_uniformly(network, *just_feasible(network), step)
        assert smallest_eigenvalue(network, t, rho) >= share * clearance * (1 - 1e-6)
    for seed in range(3):
        network = residual(activation, seed)
        t, rho = enlarged_uniformly(network, *just_feasible(network), step)
        assert smallest_eigenvalue(network, t, rho) >= 0.95 * share * clearance


@pytest.mark.parametrize("build", [chain, residual])
@pytest.mark.parametrize("seed", range(3))
def test_what_misses_by_less_than_the_margin_is_repaired(build: Callable[..., Network], seed: int) -> None:
    network = build(nn.ReLU(), seed)
    t, rho = just_feasible(network)
    t *= 1 + 0.02 * np.random.default_rng(seed).uniform(-1, 1, len(t))
    missed = smallest_eigenvalue(network, t, rho)
    assert -0.05 < missed < -1e-5
    step = -3 * missed  # of which half is the clearance
    larger, claimed = enlarged_uniformly(network, t, rho, step)
    assert smallest_eigenvalue(network, larger, claimed) > 0


def test_the_price_counts_the_activations_to_come_and_the_output() -> None:
    network = residual(nn.ReLU(), 0)
    t = np.full(network.neurons, 2.0)
    larger, rho = enlarged_uniformly(network, t, 3.0, 0.1)
    sizes = [network.nodes[i].size for i in network.activations]
    assert sizes == [6, 5, 5, 5]
    np.testing.assert_allclose(larger, 2 * 1.1 ** np.repeat([4.0, 3.0, 2.0, 1.0], sizes), rtol=1e-14)
    assert rho == pytest.approx(3 * 1.1**5)


def test_branches_of_unequal_depth_count_the_deepest() -> None:
    model = Residual(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), nn.ReLU())
    network = trace(with_weights(model, 0), (2,))
    sizes = [network.nodes[i].size for i in network.activations]
    powers = {3: 2, 4: 1, 2: 1}  # by width
    larger, rho = enlarged_uniformly(network, np.ones(9), 1.0, 1.0)
    assert larger.tolist() == [2.0 ** powers[n] for n in sizes for _ in range(n)]
    assert rho == 2.0**3


def test_without_activations_only_the_output_is_counted() -> None:
    t, rho = enlarged_uniformly(trace(nn.Linear(3, 2), (3,)), np.zeros(0), 2.0, 0.5)
    assert t.shape == (0,)
    assert rho == 3.0


def test_no_multiplier_stays_zero() -> None:
    network = chain(nn.ReLU(), 0)
    t = np.ones(network.neurons)
    t[[0, -1]] = 0
    larger, _ = enlarged_uniformly(network, t, 1.0, 1e-3)
    assert (larger > 0).all()
    assert larger[0] < 1e-6
    assert (enlarged_uniformly(network, 0 * t, 1.0, 1e-3)[0] > 0).all()


@pytest.mark.parametrize("seed", range(6))
def test_margins_by_layer_are_what_every_block_gets(seed: int) -> None:
    network = chain(nn.ReLU(), seed)
    t, rho = just_feasible(network)
    clearances = np.array([0.02, 0.0, 0.3, 0.01])
    sizes = [network.nodes[i].size for i in (0, *network.activations)]
    larger, claimed = enlarged_by_layer(network, t, rho, clearances)
    assert claimed == pytest.approx(rho * 1.02 * 1.3**2 * 1.01**2)
    np.testing.assert_allclose(larger / t, np.repeat([1.3**2 * 1.01**2, 1.3 * 1.01**2, 1.01], sizes[1:]), rtol=1e-12)
    # Up to the factors s of the congruence, A gains diag(rho g_0, 2 t g).
    factors = np.repeat([1 / (1.3 * 1.01), 1 / (1.3 * 1.01), 1 / 1.01, 1.0], sizes)
    diagonal = np.concatenate([np.full(sizes[0], rho), 2 * t])
    scale = np.sqrt(np.concatenate([np.full(sizes[0], claimed), 2 * larger])) * factors
    found = scale[:, None] * matrix(network, larger, claimed) * scale
    before = np.sqrt(diagonal)[:, None] * matrix(network, t, rho) * np.sqrt(diagonal)
    wanted = before + np.diag(diagonal * np.repeat(clearances, sizes))
    np.testing.assert_allclose(found, wanted, atol=1e-9 * np.abs(wanted).max())


@pytest.mark.parametrize("build", [chain, residual])
def test_the_same_margin_for_every_layer_is_an_enlargement(build: Callable[..., Network]) -> None:
    network = build(nn.ELU(2.0), 0)
    t, rho = just_feasible(network)
    larger, claimed = enlarged_by_layer(network, t, rho, np.full(1 + len(network.activations), 0.1))
    assert smallest_eigenvalue(network, larger, claimed) >= 0.99 * 0.1 / 1.1
    assert 1 < enlarged_uniformly(network, t, rho, 1.1**2 - 1)[1] / claimed < 1.1 + 1e-9


def test_margins_of_nothing_only_lift_what_is_zero() -> None:
    network = chain(nn.ReLU(), 0)
    t = np.ones(network.neurons)
    t[0] = 0
    larger, rho = enlarged_by_layer(network, t, 2.0, np.zeros(1 + len(network.activations)))
    assert rho == 2.0
    assert 0 < larger[0] < 1e-6
    assert larger[1:].tolist() == t[1:].tolist()
