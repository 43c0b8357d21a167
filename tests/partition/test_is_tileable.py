"""Only networks that are the same everywhere on the grid are cut into tiles."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from helpers.forward import Forward
from helpers.networks import Residual, with_weights
from torch import nn

from lipguard.network.trace import trace
from lipguard.partition.tiling import is_tileable

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
