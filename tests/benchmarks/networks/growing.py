"""Convolutional networks with random weights of which one size is varied at a time.

3x3 convolutions with padding 1, each with a ReLU, then the mean over the image and a linear layer to 10 outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SWEEPS = {"size": (14, 28, 56, 112), "channels": (4, 8, 16, 32, 64, 128), "depth": (2, 4, 8, 16, 32)}


def network(sweep: str, value: int) -> tuple[nn.Sequential, tuple[int, ...]]:
    """The network of a point, in eval mode, and its input shape."""
    shape = {"size": 28, "channels": 8, "depth": {"size": 4, "channels": 3}.get(sweep, 0)} | {sweep: value}
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(shape["depth"]):
        layers += [nn.Conv2d(shape["channels"] if i else 1, shape["channels"], 3, padding=1), nn.ReLU()]
    layers += [nn.AvgPool2d(shape["size"]), nn.Flatten(), nn.Linear(shape["channels"], 10)]
    return nn.Sequential(*layers).eval(), (1, shape["size"], shape["size"])


def multiply_adds(model: nn.Sequential, shape: tuple[int, ...]) -> int:
    """Of the convolutions and linear layers, in a forward pass of one sample."""
    found = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            found.append(output.numel() * layer.weight[0].numel())

    hooks = [layer.register_forward_hook(count) for layer in model]
    with torch.no_grad():
        model(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    return sum(found)
