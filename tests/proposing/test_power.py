"""The power iteration meets the optimum of the semidefinite program that a conic solver finds."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks import Residual, with_weights
from torch import nn

import lipguard
from lipguard import DCPConfig
from lipguard.certifying.hints import HINTS
from lipguard.proposing.conic.problem import Problem
from lipguard.proposing.conic.solve import SolverOptions, solve
from lipguard.proposing.feasible.schur import form_norm
from lipguard.proposing.feasible.uniform import enlarged_until_feasible
from lipguard.proposing.power.options import PowerOptions
from lipguard.proposing.power.run import propose
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.network.graph import Network
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.norms.product import product_bounds
from lipguard.trusted.reading.trace import trace

PEERS = Path(os.environ.get("LIPGUARD_PEERS", Path(__file__).parents[3] / "shared" / "peers"))


def dense(activation: nn.Module, seed: int = 0) -> Network:
    model = nn.Sequential(nn.Linear(4, 7), activation, nn.Linear(7, 5), activation, nn.Linear(5, 3))
    return trace(with_weights(model, seed), (4,))


def residual(activation: nn.Module) -> Network:
    body = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 4))
    return trace(with_weights(nn.Sequential(Residual(body, nn.Identity()), activation, nn.Linear(4, 2)), 0), (4,))


def convolutional(activation: nn.Module) -> Network:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), activation, nn.AvgPool2d(2), nn.Conv2d(2, 2, 2, stride=2),
        activation, nn.Flatten(), nn.Linear(2, 3),
    )  # fmt: skip
    return trace(with_weights(model, 0), (1, 5, 4))


def optimum(network: Network) -> float:
    freed = FreedNetwork.assemble(network)
    problem = Problem.build(network, freed, product_bounds(network, node_norms(network, HINTS)))
    return solve(problem, SolverOptions("clarabel", 1e-6, 200)).value


ACTIVATIONS = [nn.ReLU(), nn.LeakyReLU(0.2), nn.LeakyReLU(-0.5), nn.Sigmoid(), nn.ELU(2.0)]


@pytest.mark.slow  # the contract of proposers has bounds that meet the optimum
@pytest.mark.parametrize("build", [dense, residual, convolutional])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_value_and_multipliers_meet_the_optimum(build: object, activation: nn.Module) -> None:
    network = build(activation)  # type: ignore[operator]
    best = optimum(network)
    proposal = propose(network, PowerOptions(widening=1e-5, tolerance=1e-9, max_iterations=5000))
    assert proposal.value == pytest.approx(best, rel=1e-3)
    freed = FreedNetwork.assemble(network)
    assert proposal.multipliers is not None
    layers = [network.nodes[i].size for i in network.activations]
    mended = enlarged_until_feasible(
        proposal.multipliers, layers, lambda t: form_norm(freed, t)
    )  # neurons that nothing reads
    assert mended is not None
    bound = mended[1] ** 0.5
    assert best * (1 - 1e-6) <= bound <= best * (1 + 2e-3)


@pytest.mark.parametrize("merge", ["form", "coverage", "sum"])
def test_tiles_are_proposed_as_a_conic_solver_does_or_better(merge: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 4)).eval()
    settings = {"partition": "tiles", "partition_factors": (2, 2), "merge": merge}
    scs, power = (lipguard.certify(model, (1, 8, 8), DCPConfig(solver=name, **settings)) for name in ("scs", "power"))
    tiles = [next(row for row in report.details() if row["tiles"] == 4) for report in (scs, power)]
    if merge == "form":  # the power iteration optimises the merged form itself, at the expense of the single tiles
        assert tiles[1]["form"] < 0.98 * tiles[0]["form"]
        assert tiles[1]["sum"] > tiles[0]["sum"]
    else:
        assert tiles[1]["sum"] == pytest.approx(tiles[0]["sum"], rel=1e-2)
        assert tiles[1][merge] == pytest.approx(tiles[0][merge], rel=1e-2)
    assert power.relaxation_gap < 0.01
    assert lipguard.verify(power.certificate, model) == power.bound


@pytest.mark.parametrize("seed", range(3))
def test_channels_that_never_meet_are_proved_together(seed: int) -> None:
    """The best input excites one channel. The others need multipliers too, after any number of steps."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(4, 4, 3, padding=1, groups=4) for _ in range(3)]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]).eval()
    found = {proof: lipguard.certify(model, (4, 6, 6), DCPConfig(proof=proof)) for proof in ("dense", "sparse")}
    assert found["dense"].bound < 0.9 * found["dense"].product_bound
    assert found["sparse"].bound == pytest.approx(found["dense"].bound, rel=0.01)


def test_a_warm_start_saves_steps_and_comes_to_the_same_value() -> None:
    network = dense(nn.ReLU())
    cold = propose(network, PowerOptions())
    warm = propose(network, PowerOptions(), cold.state)
    assert warm.iterations < cold.iterations
    assert warm.value == pytest.approx(cold.value, rel=1e-5)
    odd = {name: array[:, :1] for name, array in cold.state.items()}
    assert propose(network, PowerOptions(), odd).value == cold.value


@pytest.mark.parametrize("seed", [0, 4])
def test_noise_finds_again_what_a_known_state_has_lost(seed: int) -> None:
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 10))
    network = trace(with_weights(model, seed), (12,))
    cold = propose(network, PowerOptions())
    axis = np.linalg.svd(cold.state["x"].reshape(8, -1), full_matrices=False)[0][:, 0]

    def collapsed(v: np.ndarray) -> np.ndarray:
        """Of all eight components, the longest direction only."""
        return (axis[:, None] * (axis @ v.reshape(8, -1))).reshape(v.shape)

    state = {name: collapsed(v) for name, v in cold.state.items()}
    still, stirred = (propose(network, PowerOptions(tolerance=1e-4, stir=stir), state) for stir in (0.0, 0.1))
    assert still.value < 0.99 * cold.value
    assert 0.9999 * cold.value < stirred.value < 1.0001 * cold.value
    assert stirred.iterations < cold.iterations
    again = propose(network, PowerOptions(tolerance=1e-4, stir=0.1), state)
    assert again.value == stirred.value


@pytest.mark.parametrize("vectors", [1, 2])
def test_vectors_that_are_too_few_become_more(vectors: int) -> None:
    """An untrained network: its optimum needs a rank of more than two."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Flatten()]
    network = trace(nn.Sequential(*layers, nn.Linear(6 * 64, 20)).eval(), (1, 8, 8))
    plenty = propose(network, PowerOptions(vectors=64, tolerance=1e-7))
    found = propose(network, PowerOptions(vectors=vectors, tolerance=1e-7))
    assert found.value == pytest.approx(plenty.value, rel=1e-4)
    assert len(found.state["x"]) > vectors
    again = propose(network, PowerOptions(vectors=vectors, tolerance=1e-7), found.state)
    assert again.iterations < found.iterations / 2
    assert len(again.state["x"]) == len(found.state["x"])


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_how_many_vectors_it_takes_does_not_depend_on_units(unit: float) -> None:
    """The last hidden layer in other units: it needs less rank than the images, and its entries may be larger."""

    def build(unit: float) -> Network:
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4)]
        hidden, last = nn.Linear(24, 24), nn.Linear(24, 20)
        with torch.no_grad():
            hidden.weight.mul_(unit)
            last.weight.div_(unit)
        return trace(nn.Sequential(*layers, nn.Flatten(), hidden, nn.ReLU(), last).eval(), (1, 8, 8))

    options = PowerOptions(vectors=2, tolerance=1e-7)
    one, other = propose(build(1.0), options), propose(build(unit), options)
    assert len(one.state["x"]) == len(other.state["x"]) == 8
    assert one.value == pytest.approx(propose(build(unit), PowerOptions(vectors=64, tolerance=1e-7)).value, rel=1e-4)
    assert other.value == pytest.approx(one.value, rel=1e-5)


def test_vectors_that_are_not_needed_are_dropped() -> None:
    network = dense(nn.ReLU())
    few, many = (propose(network, PowerOptions(vectors=k)) for k in (8, 64))
    assert many.value == pytest.approx(few.value, rel=1e-5)
    assert len(few.state["x"]) == 8
    assert len(many.state["x"]) == 64  # asked for
    warm = propose(network, PowerOptions(), many.state)
    assert warm.value == pytest.approx(few.value, rel=1e-5)
    assert len(warm.state["x"]) == 8
    again = propose(network, PowerOptions(), warm.state)
    assert again.iterations <= warm.iterations
    assert again.value == pytest.approx(few.value, rel=1e-5)


def test_the_same_seed_gives_the_same_multipliers_and_leaves_the_global_state_alone() -> None:
    network = dense(nn.Tanh())
    before = torch.get_rng_state()
    one, other = (propose(network, PowerOptions(seed=3)) for _ in range(2))
    assert np.array_equal(one.multipliers, other.multipliers)
    assert torch.equal(before, torch.get_rng_state())


def test_time_and_steps_are_limits() -> None:
    network = dense(nn.ReLU())
    assert propose(network, PowerOptions(max_seconds=-1.0)).multipliers is None
    assert propose(network, PowerOptions(max_iterations=2)).status == "inaccurate (iterations used up)"
    began = time.monotonic()
    proposal = propose(network, PowerOptions(tolerance=0.0, max_iterations=10**9, max_seconds=0.2))
    assert time.monotonic() - began < 5
    assert proposal.status == "inaccurate (no time left)"
    assert proposal.multipliers is not None


@pytest.mark.parametrize("dead", [0, 2, 4])
def test_degenerate_networks_end_with_finite_multipliers(dead: int) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[dead].weight[0] = 0
        model[2].weight[1] = model[2].weight[2]
    report = lipguard.certify(model, (3,), DCPConfig(solver="power"))
    assert 0 < report.lower_bound <= report.bound <= report.product_bound
    with torch.no_grad():
        model[dead].weight.zero_()
    assert lipguard.certify(model, (3,), DCPConfig(solver="power")).bound == 0


@pytest.mark.skipif(not (PEERS / "load.py").exists(), reason=f"no networks of peers in {PEERS} (LIPGUARD_PEERS)")
@pytest.mark.parametrize(("family", "best"), [("fnn2", 5.1097), ("fnn3", 9.7286), ("cnn2", 7.2755), ("cnn3", 17.87)])
def test_networks_of_others_are_certified_within_a_thousandth_of_their_known_optimum(family: str, best: float) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("peers", PEERS / "load.py")
    assert spec is not None
    assert spec.loader is not None
    peers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peers)
    model, shape = peers.digits(family, 0)
    report = lipguard.certify(model, shape, DCPConfig(solver="power"))
    assert best - 1e-4 <= report.bound <= best * 1.001
    assert lipguard.verify(report.certificate, model) == report.bound
