"""Every way of proving a block owes the same: a standing that is no worse, whatever was proposed."""

import dataclasses
import math
import time

import numpy as np
import pytest
import torch
from torch import nn

from lipguard import DCPConfig
from lipguard.certifying.attempts import rounds, ways
from lipguard.certifying.budget import Budget
from lipguard.certifying.hints import HINTS
from lipguard.certifying.plans import new_plan
from lipguard.certifying.prepared import Prepared
from lipguard.certifying.proposals import Proposals
from lipguard.certifying.request import Request
from lipguard.certifying.standing import Standing
from lipguard.certifying.state import BlockState, first_states
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.reading.trace import trace

CONFIGS = {
    "dense": DCPConfig(proof="dense"),
    "sparse": DCPConfig(proof="sparse"),
    "randomised": DCPConfig(proof="randomised"),
    "tiles": DCPConfig(partition="tiles", partition_factors=(1, 1)),
}


def state(config: DCPConfig, seed: int = 0) -> BlockState:
    """Of the only block that has an LMI, with proposals."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 2, 2)).eval()
    network, budget = trace(model, (1, 12, 12)), Budget.of(config, time.monotonic())
    prepared = Prepared(Request(network, config), network, new_plan(network, budget), node_norms(network, HINTS))
    (found,) = (one for one in first_states(prepared) if one.subject.has_lmi)
    return dataclasses.replace(found, proposals=rounds.propose(found.subject, found.proposals, budget, True))


@pytest.fixture(scope="module", params=CONFIGS)
def block(request: pytest.FixtureRequest) -> BlockState:
    return state(CONFIGS[request.param])


def proved(
    block: BlockState, proposals: Proposals, standing: Standing | None = None, left: float = math.inf
) -> Standing:
    subject = block.subject
    budget = Budget(subject.config, time.monotonic(), time.monotonic() + left)
    standing = ways.begun(subject, proposals, block.standing if standing is None else standing)
    return ways.prove(subject, proposals, standing, budget)


def test_good_proposals_prove_less_than_norms(block: BlockState) -> None:
    found = proved(block, block.proposals)
    assert found.proved.bound < 0.95 * block.subject.product
    assert len(found.multipliers) == len(block.subject.parts)
    assert 0 <= found.gap < 0.05
    assert found.status == "solved"
    assert not block.standing.multipliers  # a value: the one before is what it was


@pytest.mark.parametrize("spoiled", [0.0, np.nan, 1e300, 1e-300])
def test_garbage_proves_nothing_and_takes_nothing_away(block: BlockState, spoiled: float) -> None:
    garbage = tuple(
        dataclasses.replace(p, multipliers=np.full(part.neurons, spoiled), directions=None)
        for p, part in zip(block.proposals.found, block.subject.parts, strict=True)
    )
    proposals = Proposals(garbage, rounds=9)
    assert proved(block, proposals).proved.bound <= block.subject.product
    before = proved(block, block.proposals)
    after = proved(block, proposals, before)
    assert after.proved.bound <= before.proved.bound
    assert after.multipliers


def test_without_proposals_norms_are_all(block: BlockState) -> None:
    found = proved(block, Proposals())
    assert (found.proved.bound, found.multipliers) == (block.subject.product, ())
    assert found.status == "not solved; no proof"
    assert math.isnan(found.gap)


def test_a_deadline_that_is_over_keeps_what_there_is_and_says_so(block: BlockState) -> None:
    before = proved(block, block.proposals)
    late = proved(block, block.proposals, before, left=-100.0)
    assert (late.proved, late.multipliers) == (before.proved, before.multipliers)
    assert late.status == "solved; no time left"
    assert proved(block, block.proposals, left=-100.0).status == "solved; no time left; no proof"


def test_what_is_no_better_does_not_replace_what_there_is(block: BlockState) -> None:
    before = proved(block, block.proposals)
    again = proved(block, block.proposals, before)
    assert again.proved.bound <= before.proved.bound
    worse = dataclasses.replace(before.proved, bound=1.01 * before.proved.bound)
    assert before.better(dataclasses.replace(before, proved=worse)) is before
    assert block.standing.better(before) is before


def test_time_is_said_to_be_over_once(block: BlockState) -> None:
    assert block.standing.late().late().status == "no time left"
    said = block.standing.begun(("failed (no time left)",))
    assert said.late() is said


def test_a_budget_is_what_settings_and_callers_leave() -> None:
    assert not Budget.of(DCPConfig(), 5.0).is_limited
    now = time.monotonic()
    own = Budget.of(DCPConfig(max_seconds=100.0), now)
    assert own.deadline == now + 100.0
    assert own.is_limited
    assert 90 < own.left <= 100
    assert now + 50 <= own.within(0.5) <= now + 51
    assert not own.is_over()
    assert own.is_over(ahead=101.0)
    given = Budget.of(DCPConfig(max_seconds=100.0), now, now - 1)
    assert (given.deadline, given.left) == (now - 1, 0.0)
    assert given.are_proofs_over(small=False)
    assert not given.are_proofs_over(small=True)  # what was solved is not to be lost
