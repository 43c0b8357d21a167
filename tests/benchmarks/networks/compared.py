"""Small networks of all kinds of layers, for comparing two checkouts: random graphs, and what people write.

Rests on torch and tests/helpers alone, so that a checkout of another age can be given the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from helpers.graphs import random_graph
from helpers.networks import MaxMin, Residual
from torch import nn

GRAPHS = 44


def networks() -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    """(name, model in eval mode, input shape), sixty of them."""
    for seed in range(GRAPHS):
        yield f"graph {seed}", *random_graph(seed)
    for seed, (name, (build, shape)) in enumerate(_MADE.items()):
        torch.manual_seed(seed)
        model = build().eval()
        with torch.no_grad():
            model(torch.zeros(2, *shape))
        yield name, model, shape


def _pair(channels: int, act: Any = nn.ReLU) -> nn.Module:
    body = [nn.Conv2d(channels, channels, 3, padding=1), act(), nn.Conv2d(channels, channels, 3, padding=1)]
    return Residual(nn.Sequential(*body), nn.Identity())


def _dense(act: Any, *widths: int) -> nn.Module:
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), act())]
    return nn.Sequential(*layers[:-1])


def _cnn(act: Any, stride: int = 2) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride, 1), act(), nn.Conv2d(4, 6, 3, stride, 1), act(), nn.Flatten(), nn.LazyLinear(10)
    )


def _deep(act: Any) -> nn.Module:
    return nn.Sequential(*(layer for k in range(5) for layer in (nn.Conv2d(1 if k == 0 else 4, 4, 3), act())))


def _pooled(pool: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), pool, nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
                         nn.LazyLinear(5))  # fmt: skip


_MADE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: _dense(nn.ReLU, 10, 30, 30, 5), (10,)),
    "mlp deep": (lambda: _dense(nn.Tanh, 8, 12, 12, 12, 12, 12, 3), (8,)),
    "mlp leaky": (lambda: _dense(lambda: nn.LeakyReLU(0.1), 8, 20, 20, 3), (8,)),
    "mlp maxmin": (lambda: _dense(MaxMin, 8, 20, 20, 4), (8,)),
    "cnn": (lambda: _cnn(nn.ReLU), (1, 12, 12)),
    "cnn elu": (lambda: _cnn(nn.ELU), (1, 9, 11)),
    "cnn maxmin": (lambda: _cnn(MaxMin), (1, 10, 10)),
    "cnn wide": (lambda: _cnn(nn.ReLU, 1), (1, 14, 14)),
    "stack": (lambda: _deep(nn.ReLU), (1, 16, 16)),
    "stack gelu": (lambda: _deep(nn.GELU), (1, 14, 12)),
    "max pool": (lambda: _pooled(nn.MaxPool2d(2)), (1, 14, 14)),
    "average pool": (lambda: _pooled(nn.AvgPool2d(3, 2, 1)), (1, 14, 14)),
    "residual": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), _pair(4), nn.ReLU(),
                 _pair(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)), (1, 10, 10)),
    "one layer": (lambda: nn.Linear(7, 5), (7,)),
    "no weights": (lambda: nn.ReLU(), (3, 4, 4)),
    "sequence": (lambda: nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 2)), (3, 6)),
}  # fmt: skip
