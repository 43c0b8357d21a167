"""Where a network is cut: the best of all cuts that fit, and plans that have them."""

from __future__ import annotations

import itertools
import math

import pytest
from helpers.networks import with_weights
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import lipguard
from lipguard.config import DCPConfig
from lipguard.planning import cuts
from lipguard.planning.cuts import TYPICAL_LOSS, Segment, best_cuts, candidates, losses, segments
from lipguard.planning.machine import CostModel
from lipguard.planning.orders.elimination import elimination_of
from lipguard.planning.search import find_plan
from lipguard.trusted.network.cutting import cut_behind, part_of, pieces_of
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.trace import trace

COST = CostModel(1e-8, 2.5, 2e10)


def deep(depth: int = 4, channels: int = 3, size: int = 8) -> Network:
    layers = [m for i in range(depth) for m in (nn.Conv2d(channels if i else 1, channels, 3, padding=1), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, 2))
    return trace(with_weights(model, 0), (1, size, size))


def test_candidates_are_activations_that_every_path_passes() -> None:
    network = deep()
    assert candidates(network) == list(network.activations)
    ends = trace(with_weights(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), 0), (3,))
    assert candidates(ends) == []


def test_segments_grow_until_they_do_not_fit() -> None:
    network = deep(4)
    ends = [0, *network.activations, len(network.nodes) - 1]
    found = segments(network, lambda part: 1.0 if len(part.activations) <= 2 else None)
    spans = {(ends.index(s.start), ends.index(s.stop)) for s in found}
    # One or two activations: two steps, or three up to the output, which has none of its own.
    assert spans == {(i, j) for i, j in itertools.combinations(range(6), 2) if j - i <= (2 if j < 5 else 3)}
    assert segments(network, lambda part: None) == []


@given(st.integers(0, 10**6), st.integers(1, 4), st.floats(0.5, 8.0))
def test_the_best_cuts_are_those_of_all_that_fit(seed: int, depth: int, budget: float) -> None:
    import random

    draw = random.Random(seed)
    network = deep(depth, 1, 3)
    ends = [0, *candidates(network), len(network.nodes) - 1]
    found = [Segment(a, b, draw.uniform(0.1, 2)) for a, b in itertools.combinations(ends, 2) if draw.random() < 0.7]
    lost = {i: draw.uniform(0, 0.5) for i in candidates(network)}
    times = {(s.start, s.stop): s.seconds for s in found}
    options = {}
    for k in range(len(lost) + 1):
        for chosen in itertools.combinations(lost, k):
            steps = list(itertools.pairwise([0, *chosen, ends[-1]]))
            if all(step in times for step in steps):
                options[chosen] = (sum(lost[i] for i in chosen), sum(times[step] for step in steps))
    best = best_cuts(network, found, lost, math.inf)
    if not options:
        assert best is None
        return
    assert best is not None
    assert best.loss == pytest.approx(min(loss for loss, _ in options.values()), abs=1e-8)
    limited = best_cuts(network, found, lost, budget)
    if limited is not None:
        assert options[limited.behind][1] <= budget
        assert limited.loss == pytest.approx(options[limited.behind][0])
        assert limited.grids == ((1, 1),) * (len(limited.behind) + 1)


def test_what_a_cut_loses_is_measured_or_assumed() -> None:
    network = deep(2)
    one, other = network.activations
    assert losses(network, [one], None) == {one: pytest.approx(math.log1p(TYPICAL_LOSS))}
    values = {
        network.architecture: 2.0,
        cut_behind(network, [one]).architecture: 3.0,
        cut_behind(network, [other]).architecture: 1.9,
    }
    found = losses(network, [one, other], lambda part: values[part.architecture])
    assert found == {one: pytest.approx(math.log(1.5)), other: 0.0}
    assert losses(network, [one], lambda part: math.nan)[one] == pytest.approx(math.log1p(TYPICAL_LOSS))


def test_a_network_that_is_too_large_is_cut_where_it_loses_least(monkeypatch: pytest.MonkeyPatch) -> None:
    network = deep(4)
    limit = elimination_of(network).largest - 1
    config = DCPConfig(failure_probability=0, max_block_size=limit, max_memory=1e12)
    asked = []

    def value(part: Network) -> float:
        asked.append(part)
        extra = [i for i, node in enumerate(part.nodes) if getattr(node.layer, "name", "") == "copies"]
        return 1.0 + sum(0.5 if i != network.activations[2] + 1 else 0.1 for i in extra)

    (block,) = find_plan(network, config, COST, value).blocks
    assert block.kind == "whole"
    assert block.proof == "sparse"
    assert network.activations[2] in block.cuts
    assert len(asked) == 1 + len(candidates(network))
    assert "diagonal form" in block.reason
    assert "cut" in block.method
    own = block.parts(network)[0]
    assert all(elimination_of(part_of(own, nodes)).largest <= limit for nodes in pieces_of(own))
    again = find_plan(network, config, COST, value).blocks[0]
    assert again == block


def test_there_is_no_time_to_ask_what_a_cut_loses() -> None:
    network = deep(4)
    limit = elimination_of(network).largest - 1
    config = DCPConfig(failure_probability=0, max_block_size=limit, max_memory=1e12, max_seconds=20.0)
    slow = CostModel(1e-8, 2.5, 1e9)
    (block, *_) = find_plan(network, config, slow, lambda part: pytest.fail("asked")).blocks
    assert block.cuts


def test_what_does_not_fit_even_when_cut_everywhere_is_planned_otherwise() -> None:
    network = deep(4)
    config = DCPConfig(failure_probability=0, max_memory=1e4)
    plan = find_plan(network, config, COST)
    assert not any(block.cuts for block in plan.blocks)
    assert cuts.segments(network, lambda part: None) == []


@pytest.mark.slow
def test_what_is_too_large_between_two_cuts_is_in_tiles() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(),
        nn.Conv2d(2, 1, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2),
    )  # fmt: skip
    model = with_weights(model, 0)
    config = DCPConfig(failure_probability=0, max_block_size=80)
    report = lipguard.certify(model, (1, 8, 8), config)
    (block,) = report.plan.blocks
    assert max(math.prod(grid) for grid in block.grids) > 1
    assert "tiles" in block.method
    assert report.proof == "sparse"
    assert report.lower_bound <= report.bound < report.product_bound
    whole = lipguard.certify(model, (1, 8, 8))
    assert whole.bound <= report.bound
    assert lipguard.verify(report.certificate, model) == report.bound
    again = lipguard.certify(model, (1, 8, 8), config, report)
    assert again.plan == report.plan
    assert again.bound == pytest.approx(report.bound, rel=1e-2)
    own = block.parts(trace(model, (1, 8, 8)))[0]
    assert all(elimination_of(part_of(own, nodes)).largest <= 80 for nodes in pieces_of(own) if len(nodes) > 1)


def test_asked_for_partition_factors_are_the_tiles() -> None:
    network = deep(3)
    limit = elimination_of(network).largest - 1
    config = DCPConfig(failure_probability=0, max_block_size=limit, max_memory=1e12, partition_factors=(2, 4))
    found = segments(network, lambda part: 1.0 if len(pieces_of(part)) > 1 else None, config.partition_factors)
    assert {segment.grid for segment in found} == {(2, 4)}


def test_finer_tiles_that_take_less_are_kept_where_time_is_limited() -> None:
    network = deep(2)

    def seconds(part: Network) -> float | None:
        return None if len(pieces_of(part)) == 1 else 100.0 / len(pieces_of(part)) ** 2

    grids: dict[bool, set[tuple[int, int]]] = {}
    for hurried in (False, True):
        grids[hurried] = {s.grid for s in segments(network, seconds, None, hurried)}
    assert grids[False] < grids[True]


def test_tiles_are_measured_before_they_are_taken() -> None:
    network = deep(2)
    last = len(network.nodes) - 1
    one, other = network.activations
    found = [Segment(0, one, 1.0, (2, 2)), Segment(0, other, 1.0, (4, 4)), Segment(one, other, 1.0),
             Segment(other, last, 1.0)]  # fmt: skip
    worth = {(): 1.0, (one,): 1.05, (other,): 1.02, (one, other): 1.0}

    def value(part: Network) -> float:
        tiles = sum(len(node.inputs) > 1 for node in part.nodes)
        many = max((len(node.inputs) for node in part.nodes), default=1)
        copied = tuple(i for i in (one, other) if any(n.path == network.nodes[i].path and
                       getattr(n.layer, "name", "") == "copies" for n in part.nodes))  # fmt: skip
        return worth[copied] * (1 + tiles * (0.5 if many == 16 else 0.01))

    best = cuts.chosen_cuts(network, found, value, math.inf)
    assert best is not None
    assert best.behind == (one, other)
    assert best.grids == ((2, 2), (1, 1), (1, 1))
