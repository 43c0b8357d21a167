"""Only networks that are the same everywhere on the grid are cut into tiles."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from helpers.forward import Forward
from helpers.networks import Residual, with_weights
from torch import nn

from lipguard.config import DCPConfig
from lipguard.errors import CertificateError
from lipguard.planning.search import find_plan
from lipguard.trusted.certificate.blocks import Block, Partition
from lipguard.trusted.layers import Activation, Conv2d, Input
from lipguard.trusted.network.graph import Network, Node
from lipguard.trusted.network.tiling import Tiling, is_tileable
from lipguard.trusted.network.unfolding import most_tiles, unfolded
from lipguard.trusted.reading.trace import trace

TILEABLE: dict[str, nn.Module] = {
    "convolution": nn.Conv2d(2, 2, 3, 2, 1, groups=2),
    "batch norm": nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.LeakyReLU()),
    "average pooling": nn.AvgPool2d(3, 1, 1),
    "zero padding": nn.Sequential(nn.ZeroPad2d((1, 0, 2, 0)), nn.Conv2d(2, 2, 3)),
    "activation": nn.Tanh(),
    "residual": Residual(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU()), nn.Identity()),
    "residual with a stride": Residual(nn.Conv2d(2, 3, 3, 2, 1), nn.Conv2d(2, 3, 1, 2)),
}
NOT_TILEABLE: dict[str, nn.Module] = {
    "linear on the last axis": nn.Linear(6, 6),
    "flatten": nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten()),
    "dense tail": nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)),
    "reshape to another image": Forward(lambda m, x: x.view(-1, 2, 4, 9)),
    "pooling whose divisor varies": nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "padding of the channels": Forward(lambda m, x: F.pad(x, (0, 0, 0, 0, 1, 0))),
    "branches of other strides": Residual(nn.Conv2d(2, 2, 3, 2, 1), nn.ZeroPad2d((-1, -2, -3, 0))),
    "nothing": nn.Identity(),
}


@pytest.mark.parametrize("name", TILEABLE)
def test_tileable(name: str) -> None:
    assert is_tileable(trace(with_weights(TILEABLE[name], 0), (2, 6, 6)))


@pytest.mark.parametrize("name", NOT_TILEABLE)
def test_not_tileable(name: str) -> None:
    assert not is_tileable(trace(with_weights(NOT_TILEABLE[name], 0), (2, 6, 6)))


def test_samples_that_are_no_images_are_not_tileable() -> None:
    assert not is_tileable(trace(with_weights(nn.BatchNorm1d(3), 0), (3, 4)))
    assert not is_tileable(trace(nn.ReLU(), (2, 3, 4, 5)))


def test_a_varying_divisor_on_a_single_position_is_the_same_everywhere() -> None:
    model = with_weights(nn.Sequential(nn.AvgPool2d(4, 1, 1, count_include_pad=False)), 0)
    assert is_tileable(trace(model, (2, 2, 2)))


def in_groups(size: int) -> Network:
    """An image between two convolutions whose columns are groups."""
    shape, weight = (2, 3, 4), torch.ones(2, 2, 1, 1, dtype=torch.float64)
    layers = [Conv2d(weight), Activation("sorted", -1.0, 1.0, torch.abs, size), Conv2d(weight)]
    nodes = [Node("input", Input(), (), shape)]
    nodes += [Node(str(i), layer, (i,), shape) for i, layer in enumerate(layers)]
    return Network(tuple(nodes))


def plan_of(network: Network, **settings: object) -> Partition:
    block = Block(0, len(network.nodes) - 1, proof="dense", **settings)  # type: ignore[arg-type]
    return Partition(network.architecture, (block,))


def test_groups_are_not_cut_into_tiles() -> None:
    """Whatever asks: planning, the plan of a certificate, and the tiles themselves."""
    network, alone = in_groups(4), in_groups(1)
    assert not is_tileable(network)
    assert most_tiles(network) == (1, 1)
    with pytest.raises(NotImplementedError, match="boxes"):
        _ = Tiling(network, (3, 2)).shapes
    with pytest.raises(ValueError, match="at most"):
        unfolded(network, {0: (1, 2)})
    tiles = plan_of(network, kind="tiles", tile=(3, 2))
    grids = plan_of(network, kind="whole", grids=((1, 2),))
    grids = dataclasses.replace(grids, blocks=(dataclasses.replace(grids.blocks[0], proof="sparse"),))
    for plan in (tiles, grids):
        with pytest.raises(CertificateError, match=r"where (it|they) cannot be"):
            plan.check(network)
        dataclasses.replace(plan, architecture=alone.architecture).check(alone)
    for partition in ("auto", "tiles", "cuts"):
        plan = find_plan(network, DCPConfig(partition=partition, max_block_size=48))
        assert all(block.kind != "tiles" and not block.grids for block in plan.blocks)
    assert any(b.kind == "tiles" for b in find_plan(alone, DCPConfig(partition="tiles", max_block_size=30)).blocks)
