"""A partition is a plain value that survives JSON, and is refused where it does not fit."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from helpers.networks import Residual, with_weights
from helpers.plans import assert_needs, assert_unreadable, network, plain, plan
from torch import nn

from lipguard.errors import CertificateError
from lipguard.trusted.certificate.blocks import Block, Partition
from lipguard.trusted.reading.trace import trace


def partition() -> Partition:
    """Tiles, norms and one LMI."""
    return plan().partition


def test_partitions_survive_json() -> None:
    found = partition()
    again = Partition.from_dict(plain(found))
    assert again == found
    again.check(network())


def test_what_a_file_says_beside_a_partition_is_not_read() -> None:
    """As files do that hold a plan with all that was predicted of it."""
    state = plain(partition())
    for block in state["blocks"]:
        block |= {"ratio": "low", "seconds": None, "layers": 3, "variables": [1e9]}
    assert Partition.from_dict(state | {"settings": 7, "considered": None}) == partition()


def with_block(index: int, **changes: Any) -> Partition:
    found = partition()
    blocks = list(found.blocks)
    blocks[index] = dataclasses.replace(blocks[index], **changes)
    return dataclasses.replace(found, blocks=tuple(blocks))


def without(index: int) -> Partition:
    found = partition()
    return dataclasses.replace(found, blocks=found.blocks[:index] + found.blocks[index + 1 :])


def with_empty_block(index: int) -> Partition:
    found = partition()
    end = found.blocks[index - 1].stop
    blocks = (*found.blocks[:index], Block(end, end, "norm"), *found.blocks[index:])
    return dataclasses.replace(found, blocks=blocks)


TAMPERED = {
    "another architecture": lambda: dataclasses.replace(partition(), architecture="0" * 64),
    "no blocks": lambda: dataclasses.replace(partition(), blocks=()),
    "without the first block": lambda: without(0),
    "without a middle block": lambda: without(1),
    "without the last block": lambda: without(2),
    "a block twice": lambda: dataclasses.replace(partition(), blocks=(partition().blocks[0], *partition().blocks)),
    "a gap": lambda: with_block(1, start=partition().blocks[1].start + 1),
    "an overlap": lambda: with_block(1, start=partition().blocks[1].start - 1),
    "a block of nothing": lambda: with_block(1, stop=partition().blocks[1].start),
    "an empty block between others": lambda: with_empty_block(1),
    "an empty block at the end": lambda: with_empty_block(3),
    "a block backwards": lambda: with_block(1, stop=partition().blocks[1].start - 1),
    "past the end": lambda: with_block(2, stop=99),
    "a negative end": lambda: with_block(2, stop=-1),
    "an unknown kind": lambda: with_block(0, kind="zero"),
    "tiles of a dense layer": lambda: with_block(2, kind="tiles", tile=(1, 1)),
    "tiles across the flattening": lambda: with_block(1, kind="tiles", tile=(1, 1)),
    "tiles without a size": lambda: with_block(0, tile=None),
    "tiles of no rows": lambda: with_block(0, tile=(0, 2)),
    "tiles of negative size": lambda: with_block(0, tile=(2, -1)),
    "tiles larger than the grid": lambda: with_block(0, tile=(2, 5)),
    "a cut before its block": lambda: with_block(1, cuts=(partition().blocks[1].start,)),
    "a cut behind its block": lambda: with_block(1, cuts=(partition().blocks[1].stop,)),
    "cut tiles": lambda: with_block(0, cuts=(partition().blocks[0].start + 1,)),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_plans_that_do_not_fit_are_refused(case: str) -> None:
    partition().check(network())
    with pytest.raises(CertificateError):
        TAMPERED[case]().check(network())


def test_plans_of_another_network_are_refused() -> None:
    with pytest.raises(CertificateError, match="architecture"):
        partition().check(network(channels=3))


def test_blocks_that_end_inside_a_branch_are_refused() -> None:
    model = Residual(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)), nn.Identity())
    net = trace(with_weights(model, 0), (3,))
    blocks = (Block(0, 2, "whole"), Block(2, len(net.nodes) - 1, "norm"))
    with pytest.raises(CertificateError, match="no cut"):
        Partition(net.architecture, blocks).check(net)


UNREADABLE: dict[str, Any] = {
    "no blocks": {"architecture": "a", "settings": {}},
    "no architecture": {"blocks": [], "settings": {}},
    "blocks of another kind": {"architecture": "a", "settings": {}, "blocks": 3},
    "a list": [],
    "nothing": None,
    "a text": "plan",
}
FIELDS: dict[str, Any] = {
    "start": "first", "stop": None, "tile": [1], "kind": None, "cuts": [[1]], "grids": [[1]], "proof": 3,
}  # fmt: skip


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_is_no_plan_is_refused(case: str) -> None:
    assert_unreadable(Partition, UNREADABLE[case])


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Block)])
def test_blocks_that_lack_a_field_are_refused(field: str) -> None:
    assert_needs(Partition, partition(), field)


@pytest.mark.parametrize("field", FIELDS)
def test_blocks_with_a_field_of_another_type_are_refused(field: str) -> None:
    state = plain(partition())
    state["blocks"][0][field] = FIELDS[field]
    with pytest.raises(CertificateError):
        Partition.from_dict(state).check(network())


def test_tiles_between_cuts_must_fit_the_network() -> None:
    net = trace(with_weights(nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(72, 2)), 0), (1, 6, 6))  # fmt: skip
    last, (first, second) = len(net.nodes) - 1, net.activations
    good = Block(0, last, "whole", proof="sparse", cuts=(second,), grids=((2, 2), (1, 1)))

    def planned(block: Block) -> Partition:
        return Partition(net.architecture, (block,))

    planned(good).check(net)
    for values in (
        {"grids": ((2, 2),)}, {"grids": ((2, 2), (2, 1))}, {"grids": ((7, 1), (1, 1))}, {"grids": ((0, 1), (1, 1))},
        {"grids": ((-1, 1), (1, 1))}, {"proof": "dense"}, {"proof": "randomised"}, {"cuts": (first, second)},
        {"cuts": ()}, {"grids": ((1, 1), (1, 1), (1, 1))},
    ):  # fmt: skip
        with pytest.raises(CertificateError, match=r"tiles|cuts a block"):
            planned(dataclasses.replace(good, **values)).check(net)
