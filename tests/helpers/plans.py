"""A network of which every kind of block is planned, and what plain values of plans and partitions are refused for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from torch import nn

from helpers.networks import with_weights
from lipguard.config import DCPConfig
from lipguard.errors import CertificateError
from lipguard.planning.machine import CostModel
from lipguard.planning.plan import PartitionPlan
from lipguard.planning.search import find_plan
from lipguard.trusted.certificate.blocks import Partition
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.trace import trace

COST = CostModel(1e-9, 3.0)
CONFIG = DCPConfig(partition="tiles", partition_factors=(2, 3), max_block_size=200, max_seconds=60.0)


def network(channels: int = 2) -> Network:
    model = nn.Sequential(
        nn.Conv2d(1, channels, 3), nn.ReLU(), nn.Conv2d(channels, 3, 3), nn.Flatten(),
        nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 3),
    )  # fmt: skip
    return trace(with_weights(model, 0), (1, 8, 8))


def plan() -> PartitionPlan:
    """Tiles, norms and one LMI."""
    found = find_plan(network(), CONFIG, COST)
    assert [block.kind for block in found.blocks] == ["tiles", "norm", "whole"]
    return found


def plain(value: Partition) -> dict[str, Any]:
    """What a file has of it."""
    state: dict[str, Any] = json.loads(json.dumps(value.to_dict()))
    return state


def assert_unreadable(kind: type[Partition], state: Any) -> None:
    with pytest.raises(CertificateError, match="cannot be read"):
        kind.from_dict(state)


def assert_needs(kind: type[Partition], value: Partition, field: str) -> None:
    """Without this field of its first block it is none."""
    state = plain(value)
    del state["blocks"][0][field]
    assert_unreadable(kind, state)
