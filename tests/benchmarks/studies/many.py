"""Many networks at once: 1 process beside 2, on eight checkpoints of CNN1.

Checkpoints are the epochs of a training on MNIST (`LIPGUARD_MNIST`). The processes are started before the clock is; one
process has one thread, as each of two has.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import torch
from torch import nn

import lipguard
from lipguard import DCPConfig

from ..networks.trained import cnn1
from ..networks.training import Training, mnist
from ..reporting.markdown import print_head, print_row

EPOCHS = 8


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study: none."""


def run(chosen: argparse.Namespace) -> None:
    """Print seconds and speed-ups."""
    torch.set_num_threads(1)
    training = Training(cnn1, *mnist())
    models: list[nn.Module] = [training.one_epoch_later() for _ in range(EPOCHS)]

    def checkpoints(workers: int) -> list[float]:
        reports = lipguard.certify_many(models, (1, 28, 28), DCPConfig(workers=workers))
        return [report.bound for report in reports]

    print_head(("what", "1 process, s", "2 processes, s", "speed-up", "largest difference of bounds"))
    checkpoints(2)  # starts the processes
    one, other = _timed(checkpoints, 1), _timed(checkpoints, 2)
    difference = max(abs(a / b - 1) for a, b in zip(one[1], other[1], strict=True))
    name = f"{EPOCHS} checkpoints of CNN1"
    print_row((name, f"{one[0]:.1f}", f"{other[0]:.1f}", f"{one[0] / other[0]:.2f}", f"{difference:.1e}"))
    print(f"\n- Load of the machine at the end: {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores.")


def _timed(work: Callable[[int], list[float]], workers: int) -> tuple[float, list[float]]:
    start = time.perf_counter()
    bounds = work(workers)
    return time.perf_counter() - start, bounds
