"""Normalisations that are written out: read as the function that they are, and not as products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.forward import Forward
from helpers.sandwich import assert_sandwich
from torch import Tensor

from lipguard.trusted.reading.trace import trace

EPS = 0.01


def _rms(x: Tensor, dim: Any = -1) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(dim, keepdim=True) + EPS)


def _layer_norm(x: Tensor) -> Tensor:
    away = x - x.mean(-1, keepdim=True)
    return away / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + EPS)


WRITTEN: dict[str, tuple[tuple[int, ...], Any, float]] = {  # shape, function, constant
    "RMS norm": ((4,), _rms, 10.0),
    "RMS norm of tokens": ((3, 4), _rms, 10.0),
    "RMS norm of channels": ((4, 2, 3), lambda x: _rms(x, 1), 10.0),
    "RMS norm of images": ((2, 3, 2), lambda x: _rms(x, (2, 3)), 10.0),
    "layer norm": ((4,), _layer_norm, 10.0),
    "layer norm by squares": (
        (2, 3),
        lambda x: (x - x.mean(2, True)) / ((x - x.mean(2, True)).square().mean(2, True) + EPS).sqrt(),
        10.0,
    ),
    "x / sqrt(1 + |x|^2)": ((5,), lambda x: x / torch.sqrt(1 + (x * x).sum(1, keepdim=True)), 1.0),
    "2 x / sqrt(4 + 9 |x|^2)": ((5,), lambda x: 2 * x / torch.sqrt(4 + 9 * (x * x).sum(1, keepdim=True)), 1.0),
    "one entry": ((3,), lambda x: x[:, :1] / torch.sqrt(0.25 + x.square().sum(1, keepdim=True)), 2.0),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_it_is_the_function_that_is_meant(name: str) -> None:
    shape, function, constant = WRITTEN[name]
    network = Forward(lambda m, x: function(x))
    assert not trace(network, shape).steep
    assert assert_sandwich(network, shape).bound == pytest.approx(constant, rel=1e-4)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flip(1) * torch.rsqrt(x.pow(2).mean(2, keepdim=True) + EPS),  # of another group
        lambda x: x * torch.rsqrt(x[:, :, :2].pow(2).sum(2, keepdim=True) + EPS),  # not of all entries
        lambda x: x * torch.rsqrt(x.pow(2).sum(2, keepdim=True)),
        lambda x: (x + 1) * torch.rsqrt(x.pow(2).sum(2, keepdim=True) + EPS),
        lambda x: x * (1 + torch.rsqrt(x.pow(2).sum(2, keepdim=True) + EPS)),
        lambda x: x / (1 + torch.sqrt(x.pow(2).sum(2, keepdim=True) + EPS)),
    ],
)
def test_what_only_looks_like_one_is_a_product(function: Any) -> None:
    assert trace(Forward(lambda m, x: function(x)), (2, 3)).steep
