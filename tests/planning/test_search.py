"""The search keeps to its settings, and says what it would take where it cannot.

The power iteration searches for cuts and tiles only; what else it plans is in `test_choice_of_proof`.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from helpers.networks import Residual, Sample, convolutional, networks, with_weights
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from lipguard.config import DCPConfig
from lipguard.errors import ConfigError
from lipguard.planning.machine import CostModel
from lipguard.planning.plan import PartitionPlan, settings_of
from lipguard.planning.search import find_plan
from lipguard.proposing.conic.problem import Problem
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.trace import trace

COST = CostModel(1e-9, 3.0)
SEARCHES = [("scs", partition) for partition in ("auto", "cuts", "tiles", "none")]
SEARCHES += [("power", partition) for partition in ("cuts", "tiles")]
searches = st.sampled_from(SEARCHES)


def cnn(seed: int = 0) -> Network:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(108, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip
    return trace(with_weights(model, seed), (1, 8, 8))


def conv_net() -> Network:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 2))
    return trace(with_weights(model, 0), (1, 13, 11))


def plan_of(network: Network, cost: CostModel = COST, **settings: Any) -> PartitionPlan:
    return find_plan(network, DCPConfig(**{"solver": "scs"} | settings), cost)


def rows(plan: PartitionPlan) -> list[int]:
    return [n for block in plan.blocks for n in block.variables]


def kinds(plan: PartitionPlan) -> set[str]:
    return {block.kind for block in plan.blocks}


@given(networks() | convolutional(), searches, st.integers(2, 80))
def test_plans_cover_the_network_within_the_largest_block(
    sample: Sample, search: tuple[str, str], largest: int
) -> None:
    network = trace(sample.model, sample.input_shape)
    try:
        plan = plan_of(network, solver=search[0], partition=search[1], max_block_size=largest)
    except ConfigError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert f"max_block_size={largest}" in message
        return
    plan.check(network)
    assert plan.blocks or len(network.nodes) == 1
    assert all(n <= largest for n in rows(plan))
    assert 0 < plan.ratio <= 1
    assert {block.proof for block in plan.blocks} == {"dense"}
    for block in plan.blocks:  # the rows are those that the solver gets
        parts = block.parts(network)
        problems = [Problem.build(p, FreedNetwork.assemble(p), [1.0] * len(p.nodes)) for p in parts]
        assert all(problem.size <= n for problem, n in zip(problems, block.variables, strict=True))


@given(networks() | convolutional(), searches)
def test_the_number_in_the_message_is_the_smallest_that_works(sample: Sample, search: tuple[str, str]) -> None:
    network = trace(sample.model, sample.input_shape)
    with_size: dict[str, Any] = {"solver": search[0], "partition": search[1], "max_block_size": 2}
    try:
        plan_of(network, **with_size)
        assume(False)
    except ConfigError as error:
        smallest = int(re.search(r"(\d+) rows", str(error))[1])  # type: ignore[index]
    plan = plan_of(network, **with_size | {"max_block_size": smallest})
    assert max(rows(plan)) == smallest
    with pytest.raises(ConfigError, match=f"{smallest} rows"):
        plan_of(network, **with_size | {"max_block_size": smallest - 1})


def test_the_smallest_block_may_begin_at_a_bottleneck() -> None:
    model = nn.Sequential(nn.Linear(2, 20), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 1))
    network = trace(with_weights(model, 0), (2,))
    with pytest.raises(ConfigError, match=f"{2 + 20} rows"):
        plan_of(network, max_block_size=10)


@pytest.mark.parametrize(("solver", "partition"), [*SEARCHES, ("power", "auto"), ("power", "none")])
def test_equal_inputs_give_equal_plans(solver: str, partition: str) -> None:
    first, again, other_weights = (plan_of(cnn(seed), solver=solver, partition=partition) for seed in (0, 0, 1))
    assert first == again == other_weights
    assert first.settings == settings_of(DCPConfig(solver=solver, partition=partition))


def test_none_is_one_block() -> None:
    network = cnn()
    (block,) = plan_of(network, partition="none", max_block_size=1000).blocks
    assert (block.start, block.stop, block.kind) == (0, len(network.nodes) - 1, "whole")
    assert block.variables == (64 + 2 * 36 + 108 + 8,)


def test_none_says_how_large_the_one_block_is() -> None:
    with pytest.raises(ConfigError, match=r"252 rows.*max_block_size=251"):
        plan_of(cnn(), partition="none", max_block_size=251)


def test_cuts_do_not_tile() -> None:
    assert kinds(plan_of(cnn(), partition="cuts", max_block_size=60)) == {"norm", "whole"}
    assert kinds(plan_of(cnn(), solver="power", partition="cuts", max_block_size=60)) == {"norm", "whole"}
    assert kinds(plan_of(cnn(), partition="auto", max_block_size=60)) >= {"tiles"}


@pytest.mark.parametrize("solver", ["scs", "power"])
def test_tiles_tile_every_convolutional_subnetwork(solver: str) -> None:
    network = cnn()
    plan = plan_of(network, solver=solver, partition="tiles", max_block_size=1000)
    image = [block for block in plan.blocks if len(block.network(network).output_shape) == 3]
    assert image
    assert {block.kind for block in image} <= {"tiles", "norm"}
    assert any(block.kind == "tiles" for block in image)
    assert any(block.kind == "whole" for block in plan.blocks)  # the dense tail


@pytest.mark.parametrize(("factors", "tile"), [((1, 1), (8, 6)), ((2, 3), (4, 2)), ((3, 4), (3, 2)), ((99, 2), (1, 3))])
def test_partition_factors_are_honoured(factors: tuple[int, int], tile: tuple[int, int]) -> None:
    network = conv_net()
    plan = plan_of(network, partition="tiles", partition_factors=factors, max_block_size=2000)
    tiled = [block for block in plan.blocks if block.kind == "tiles"]
    assert tiled
    for block in tiled:
        shape = block.network(network).output_shape[1:]
        assert block.tile == tuple(-(-n // min(f, n)) for n, f in zip(shape, factors, strict=True))
    if tiled[-1].stop == len(network.nodes) - 1:
        assert tiled[-1].tile == tile


def test_a_smaller_largest_block_gives_smaller_tiles() -> None:
    network = conv_net()
    sizes = [max(rows(plan_of(network, max_block_size=n))) for n in (600, 150, 50)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_a_time_budget_shrinks_the_plan() -> None:
    network = cnn()
    free = plan_of(network)
    for share in (0.5, 0.05):
        within = plan_of(network, max_seconds=share * free.seconds)
        assert within.seconds <= share * free.seconds
        assert max(rows(within), default=0) < max(rows(free))
        within.check(network)


@pytest.mark.parametrize("settings", [{}, {"max_block_size": 1000}], ids=str)
@pytest.mark.parametrize(("solver", "partition"), SEARCHES)
def test_a_budget_that_no_solve_fits_leaves_the_norms(solver: str, partition: str, settings: dict[str, Any]) -> None:
    plan = plan_of(cnn(), CostModel(1.0, 3.0), solver=solver, partition=partition, max_seconds=1e-6, **settings)
    assert kinds(plan) == {"norm"}
    assert plan.seconds == 0


def test_slower_machines_get_smaller_blocks_in_the_same_time() -> None:
    fast, slow = (plan_of(cnn(), CostModel(c, 3.0), max_seconds=1.0) for c in (1e-9, 1e-6))
    assert max(rows(slow), default=0) < max(rows(fast))


def test_networks_without_activations_are_one_block_whatever_the_largest_one() -> None:
    network = trace(with_weights(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)), 0), (1, 4, 4))
    for partition in ("auto", "none", "cuts", "tiles"):
        (block,) = plan_of(network, partition=partition, max_block_size=2).blocks
        assert (block.kind, block.start, block.stop) == ("whole", 0, len(network.nodes) - 1)
        config = {"partition": partition, "max_block_size": 2, "failure_probability": 0}
        (block,) = plan_of(network, **config).blocks  # no proof that does not err fits
        assert (block.kind, block.start, block.stop) == ("norm", 0, len(network.nodes) - 1)


@pytest.mark.parametrize("solver", ["scs", "power"])
def test_blocks_do_not_cut_through_branches(solver: str) -> None:
    body = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1))
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), Residual(body, nn.Identity()), nn.ReLU(), nn.Conv2d(2, 1, 3))
    network = trace(with_weights(model, 0), (1, 12, 12))
    for partition in ("auto", "cuts", "tiles"):
        plan = plan_of(network, solver=solver, partition=partition, max_block_size=400)
        assert {end for block in plan.blocks for end in (block.start, block.stop)} <= set(network.separators)
        assert kinds(plan) != {"norm"}
