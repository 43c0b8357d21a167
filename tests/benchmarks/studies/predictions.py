"""What a plan predicts beside what a cold certificate takes, on networks that the prices were not fitted to.

    python tests/benchmarks/predictions.py

With torch's initial weights, seeded; nothing is learned from earlier runs (a cache folder of its own).
"""

from __future__ import annotations

import os
import tempfile

import torch
from torch import nn


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


def main() -> None:
    """Print the table."""
    import lipguard

    torch.set_num_threads(2)
    lipguard.certify(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), (2,))  # what is done once
    print("| network | LMI rows | proof | predicted, s | taken, s | taken / predicted |")
    print("|---|---|---|---|---|---|")
    for name, (shape, layers, hidden) in NETWORKS.items():
        torch.manual_seed(0)
        model = _convolutional(shape, layers, hidden).eval()
        with tempfile.TemporaryDirectory() as folder:
            os.environ["LIPGUARD_CACHE"] = folder
            predicted = lipguard.plan(model, shape)
            report = lipguard.certify(model, shape)
        ratio = report.seconds / predicted.seconds
        rows = f"{predicted.blocks[0].variables[0]:,}"
        print(f"| {name} | {rows} | {report.proof} | {predicted.seconds:.2f} | {report.seconds:.2f} | {ratio:.2f} |",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
