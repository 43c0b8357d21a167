"""Families of networks that grow, with torch's initialisation."""

from __future__ import annotations

import torch
from torch import nn

from .sample import Sample

FAMILIES = {  # what is varied: values
    "width": (8, 16, 32, 64, 128, 256, 512, 1024, 2048),
    "depth": (2, 4, 8, 16, 32, 64),
    "channels": (1, 2, 4, 8, 16, 32, 64, 128),
    "image": (4, 6, 8, 14, 28, 56, 112),
}
WHAT = {  # as FAMILIES; for the captions
    "width": "two hidden layers of so many neurons",
    "depth": "so many hidden layers of 16 neurons",
    "channels": "two convolutions of so many channels,\nimages of 8x8",
    "image": "two convolutions of 4 channels,\nimages of so many pixels a side",
}


def member(family: str, value: int) -> Sample:
    """A network of a family, with torch's initialisation."""
    torch.manual_seed(0)
    shape: tuple[int, ...] = (16,)
    layers: list[nn.Module] = []
    if family in ("width", "depth"):
        width, depth = (value, 2) if family == "width" else (16, value)
        sizes = [16, *[width] * depth]
        for k in range(depth):
            layers += [nn.Linear(sizes[k], sizes[k + 1]), nn.ReLU()]
        layers.append(nn.Linear(width, 10))
    else:
        channels, side = (value, 8) if family == "channels" else (4, value)
        shape = (1, side, side)
        for k in (1, channels):
            layers += [nn.Conv2d(k, channels, 3, padding=1), nn.ReLU()]
        layers += [nn.AvgPool2d(side), nn.Flatten(), nn.Linear(channels, 10)]
    model = nn.Sequential(*layers).eval()
    return Sample(f"{family} {value}", model, shape, lambda: model)
