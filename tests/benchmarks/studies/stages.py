"""Where the time of a cold certificate goes, stage by stage.

Each network in a process of its own, warmed up; what no stage has is the rest. With `--profile`, the functions that
take most of it, by cProfile, which makes them slower.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import lipguard
from lipguard.certifying import plans, reporting
from lipguard.certifying import run as certification
from lipguard.certifying.attempts import claims, ladder
from lipguard.proposing.power import run as power

from ..measuring.methods import load, warm_up
from ..measuring.process import Clock, measure
from ..networks.table import table
from ..reporting.markdown import print_head, print_row

DEFAULT = ("CNN1", "cnn_C5_CH16", "ResNet-20")
STAGES: dict[str, tuple[object, str]] = {
    "plan": (plans, "find_plan"),
    "norms": (certification, "node_norms"),
    "power iteration": (power, "propose"),
    "before the proof": (ladder, "first_step"),
    "proofs": (claims, "proves"),
    "lower bound": (reporting, "warm_lower_bound"),
}


@contextlib.contextmanager
def _timed(spent: dict[str, float]) -> Iterator[None]:
    """Adds the seconds of every stage's calls to `spent`."""

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

        return call

    with contextlib.ExitStack() as stack:
        for name, (owner, attribute) in STAGES.items():
            stack.enter_context(patch.object(owner, attribute, wrapped(name, getattr(owner, attribute))))
        yield


def certify(clock: Clock, weights: Path, shape: tuple[int, ...], profile: bool) -> dict[str, Any]:
    """A cold certificate, with its stages timed."""
    model = load(weights)
    warm_up()
    spent: dict[str, float] = {}
    profiler = cProfile.Profile()
    with contextlib.ExitStack() as stack:
        stack.enter_context(profiler if profile else _timed(spent))
        stack.enter_context(clock)
        lipguard.certify(model, shape)
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(15)
    return spent


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study."""
    parser.add_argument("--only", nargs="+", default=list(DEFAULT), help="networks whose name contains one of these")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--threads", type=int, default=2)


def run(chosen: argparse.Namespace) -> None:
    """Print one row per network."""
    torch.set_num_threads(chosen.threads)
    print_head(("network", "seconds", *STAGES, "rest"))
    for word in chosen.only:
        for sample in table(True, word, print):
            with tempfile.TemporaryDirectory() as folder:
                weights = Path(folder, "weights.pt")
                torch.save(sample.model, weights)
                work = (certify, weights, sample.input_shape, chosen.profile)
                found = measure(*work, limit=1200, threads=chosen.threads)
            if found.status == "done":
                own = [found.values.get(name, 0.0) for name in STAGES]
                times = (found.seconds, *own, found.seconds - sum(own))
                print_row((sample.name, *(f"{seconds:.2f}" for seconds in times)))
            else:
                print_row((sample.name, found.status))
