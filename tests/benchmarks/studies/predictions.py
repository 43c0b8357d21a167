"""What a plan predicts beside what a cold certificate takes, on networks that the prices were not fitted to.

With torch's initial weights, seeded; nothing is learned from earlier runs (a cache folder of its own).
"""

from __future__ import annotations

import argparse
import os
import tempfile

import torch
from torch import nn

import lipguard

from ..reporting.markdown import print_head, print_row


def _convolutional(shape: tuple[int, int, int], layers: list[tuple[int, int, int]], hidden: int) -> nn.Module:
    """Convolutions of (channels, side, stride), padded to keep the size, then two linear layers."""
    modules: list[nn.Module] = []
    channels, size = shape[0], shape[1]
    for width, side, stride in layers:
        modules += [nn.Conv2d(channels, width, side, stride, padding=side // 2), nn.ReLU()]
        channels, size = width, -(-size // stride)
    return nn.Sequential(
        *modules, nn.Flatten(), nn.Linear(channels * size**2, hidden), nn.ReLU(), nn.Linear(hidden, 10)
    )


NETWORKS: dict[str, tuple[tuple[int, int, int], list[tuple[int, int, int]], int]] = {
    "LeNet-like, 28x28": ((1, 28, 28), [(6, 5, 1), (16, 5, 2)], 84),
    "two wide layers, 32x32": ((3, 32, 32), [(48, 3, 2), (48, 3, 1)], 64),
    "five layers, 24x24": ((1, 24, 24), [(12, 3, 1)] * 5, 50),
    "strided, 64x64": ((3, 64, 64), [(16, 5, 2), (32, 3, 2), (64, 3, 2)], 128),
    "7x7 kernels, 32x32": ((3, 32, 32), [(8, 7, 1), (8, 7, 1), (8, 7, 1)], 32),
    "shallow and large, 96x96": ((1, 96, 96), [(8, 3, 1), (8, 3, 2)], 16),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study: none."""


def run(chosen: argparse.Namespace) -> None:
    """Print the table."""
    torch.set_num_threads(2)
    lipguard.certify(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), (2,))  # what is done once
    print_head(("network", "LMI rows", "proof", "predicted, s", "taken, s", "taken / predicted"))
    for name, (shape, layers, hidden) in NETWORKS.items():
        torch.manual_seed(0)
        model = _convolutional(shape, layers, hidden).eval()
        with tempfile.TemporaryDirectory() as folder:
            os.environ["LIPGUARD_CACHE"] = folder
            predicted = lipguard.plan(model, shape)
            report = lipguard.certify(model, shape)
        ratio = report.seconds / predicted.seconds
        rows = f"{predicted.blocks[0].variables[0]:,}"
        print_row((name, rows, report.proof, f"{predicted.seconds:.2f}", f"{report.seconds:.2f}", f"{ratio:.2f}"))
