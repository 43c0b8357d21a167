"""A plan is a plain value that survives JSON, prints as a table, and knows what of it a claim needs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from helpers.networks import Sample, convolutional, networks, with_weights
from helpers.plans import CONFIG, COST, assert_needs, assert_unreadable, network, plain, plan
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lipguard.config import DCPConfig
from lipguard.planning.plan import PartitionPlan, PlannedBlock, settings_of
from lipguard.planning.search import find_plan
from lipguard.trusted.certificate.blocks import Block, Partition
from lipguard.trusted.reading.trace import trace


@given(networks() | convolutional(), st.sampled_from(["auto", "cuts", "tiles"]))
def test_plans_survive_json(sample: Sample, partition: str) -> None:
    net = trace(sample.model, sample.input_shape)
    found = find_plan(net, DCPConfig(partition=partition, max_seconds=1.0), COST)
    again = PartitionPlan.from_dict(plain(found))
    assert again == found
    assert str(again) == str(found)
    again.check(net)


def test_settings_survive_json() -> None:
    found = plan()
    again = PartitionPlan.from_dict(plain(found))
    assert again.settings == settings_of(CONFIG) == found.settings


def test_the_table_has_a_row_for_every_block() -> None:
    found = plan()
    header, *rows, total = str(found).splitlines()
    assert len(rows) == len(found.blocks)
    for name in ("layers", "method", "LMI rows", "tiles", "predicted"):
        assert name in header
    for i, (row, block) in enumerate(zip(rows, found.blocks, strict=True)):
        assert row.split()[0] == str(i)
        assert all(path in row for path in block.layers)
        assert all(str(n) in row for n in block.variables)
    assert "tiles 2x2" in rows[0]
    assert f"{found.ratio:.3f}" in total


def test_tiles_are_counted() -> None:
    block = plan().blocks[0]
    assert block.tile == (2, 2)
    assert block.tiles == 4
    assert len(block.parts(network())) == len(block.variables) == 1


def test_a_claim_needs_the_partition_only() -> None:
    found = plan()
    needed = found.partition
    assert type(needed) is Partition
    assert {type(block) for block in needed.blocks} == {Block}
    assert Partition.from_dict(found.to_dict()) == needed
    needed.check(network())


def test_a_partition_alone_is_a_plan_of_which_nothing_is_predicted() -> None:
    found = plan()
    again = PartitionPlan.unpriced(found.partition, network())
    assert again.partition == found.partition
    assert (again.seconds, again.ratio, again.settings) == (0.0, 1.0, {})
    for own, block in zip(again.blocks, found.blocks, strict=True):
        assert (own.layers, own.variables, own.tiles) == (block.layers, block.variables, block.tiles)


@pytest.mark.parametrize("partition", ["none", "auto"])
def test_rows_and_tiles_of_a_network_that_is_cut_are_those_of_its_plan(partition: str) -> None:
    layers = [m for i in range(3) for m in (nn.Conv2d(3 if i else 1, 1 if i == 2 else 3, 3, padding=1), nn.ReLU())]
    net = trace(with_weights(nn.Sequential(*layers, nn.Flatten(), nn.Linear(100, 2)), 0), (1, 10, 10))
    largest = 110 if partition == "auto" else None
    (block,) = find_plan(net, DCPConfig(proof="sparse", partition=partition, max_block_size=largest), COST).blocks
    assert bool(block.grids) == (partition == "auto")
    own = PlannedBlock.unpriced(block, net)
    assert (own.variables, own.tiles) == (block.variables, block.tiles)


UNREADABLE: dict[str, Any] = {
    "no blocks": {"architecture": "a", "settings": {}, "considered": []},
    "no settings": {"architecture": "a", "blocks": [], "considered": []},
    "nothing considered": {"architecture": "a", "blocks": [], "settings": {}},
    "nothing": None,
}
FIELDS: dict[str, Any] = {
    "start": "first", "layers": ["one"], "variables": 3, "ratio": "low", "seconds": None, "tiles": float("inf"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_is_no_plan_is_refused(case: str) -> None:
    assert_unreadable(PartitionPlan, UNREADABLE[case])


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(PlannedBlock)])
def test_blocks_that_lack_a_field_are_refused(field: str) -> None:
    assert_needs(PartitionPlan, plan(), field)


@pytest.mark.parametrize("field", FIELDS)
def test_blocks_with_a_field_of_another_type_are_refused(field: str) -> None:
    state = plain(plan())
    state["blocks"][0][field] = FIELDS[field]
    assert_unreadable(PartitionPlan, state)
