"""Where a network is cut: the best of all cuts that fit, and plans that have them."""

from __future__ import annotations

import itertools
import math

import pytest
from helpers.networks import with_weights
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lipguard.config import DCPConfig
from lipguard.network.graph import Network
from lipguard.network.trace import trace
from lipguard.partition import cuts
from lipguard.partition.cost import CostModel
from lipguard.partition.cuts import TYPICAL_LOSS, Segment, best_cuts, candidates, losses, segments
from lipguard.partition.elimination import elimination_of
from lipguard.partition.search import find_plan

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
    assert best[1] == pytest.approx(min(loss for loss, _ in options.values()), abs=1e-8)
    limited = best_cuts(network, found, lost, budget)
    if limited is not None:
        assert options[limited[0]][1] <= budget
        assert limited[1] == pytest.approx(options[limited[0]][0])


def test_what_a_cut_loses_is_measured_or_assumed() -> None:
    network = deep(2)
    one, other = network.activations
    assert losses(network, [one], None) == {one: pytest.approx(math.log1p(TYPICAL_LOSS))}
    values = {network.architecture: 2.0, network.cut([one]).architecture: 3.0, network.cut([other]).architecture: 1.9}
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
    assert all(elimination_of(own.subnetwork(*ends)).largest <= limit for ends in own.pieces)
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
