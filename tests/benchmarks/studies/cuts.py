"""What cuts and tiles lose, and what they save: diagonal forms beside scalars, on networks trained here.

For the four-convolution network and the CIFAR-shaped one (`LIPGUARD_MNIST`, a folder with the IDX files), cut behind
some of their activations: the value of the relaxation over that of the whole network, where the cut hands on a diagonal
form, and where the constants of the parts are multiplied; and what a sparse proof takes then, as predicted. Then the
same with what is before the cut in tiles. With `--certify`, deterministic certificates without a limit, and within some
bytes for the proof, or rows of a front. With `--plot`, only the picture of a plan within 400 MB.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import torch

import lipguard
from lipguard import DCPConfig
from lipguard.figures.plan import plot_plan
from lipguard.planning.cuts import candidates
from lipguard.planning.machine import cost_model
from lipguard.planning.orders.elimination import elimination_of
from lipguard.planning.prices.kinds import choose_proof
from lipguard.proposing.power.options import PowerOptions
from lipguard.proposing.power.run import propose
from lipguard.trusted.network.cutting import cut_behind, part_of, pieces_of, subnetwork
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.unfolding import unfolded
from lipguard.trusted.reading.trace import trace

from ..measuring.methods import certify
from ..measuring.process import Outcome, measure
from ..networks.named import samples
from ..networks.sample import Sample
from ..reporting.markdown import print_head, print_row

NAMES = ("four convolutions", "CIFAR-shaped")
GRIDS = ((1, 1), (2, 1), (2, 2), (4, 4))
LIMITS: tuple[dict[str, float], ...] = ({}, {"max_memory": 1.2e9}, {"max_memory": 4e8}, {"max_block_size": 928})
HEADER = ("network", "cuts behind", "diagonal form", "product of parts", "proof, s", "proof, MB")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study."""
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--certify", action="store_true", help="certify, too")
    parser.add_argument("--plot", type=Path, help="draw a plan, and do nothing else")


def run(chosen: argparse.Namespace) -> None:
    """Print the tables."""
    torch.set_num_threads(2)
    certified = []
    for name in NAMES:
        if chosen.only.lower() not in name.lower():
            continue
        for sample in samples(name, [0], print):
            if chosen.plot:
                plan = lipguard.plan(sample.model, sample.input_shape, DCPConfig(failure_probability=0, max_memory=4e8))
                plot_plan(plan, sample.model, sample.input_shape, chosen.plot)
                continue
            network = trace(sample.model, sample.input_shape)
            _table(name, network)
            _tiles(name, network)
            if chosen.certify:
                certified += _certificates(name, sample)
    for name, limits, outcome in certified:
        print(_certified(name, limits, outcome))


def _table(name: str, network: Network) -> None:
    print_head(HEADER)
    places = candidates(network)
    middle = len(places) // 2
    sets = [(), *((i,) for i in places), tuple(places[1::2]), (places[middle - 1], places[middle + 1]), tuple(places)]
    whole = _value(network)
    for cuts in dict.fromkeys(sets):
        ends = [0, *cuts, len(network.nodes) - 1]
        parts = 1.0
        for start, stop in itertools.pairwise(ends):
            parts *= _value(subnetwork(network, start, stop))
        own = cut_behind(network, cuts)
        seconds, memory = _proof(own)
        names = ", ".join(network.nodes[i].path for i in cuts) or "-"
        print_row((
            name, names, f"{_value(own) / whole:.3f}", f"{parts / whole:.3f}", f"{seconds:.0f}", f"{memory / 1e6:.0f}",
        ))  # fmt: skip


def _tiles(name: str, network: Network) -> None:
    """Behind every place that images reach, what is before it in tiles: of the value with the cut alone."""
    header = ("network", "cut behind", "tiles before it", "loss of the tiles", "proof, s", "proof, MB", "largest front")
    print()
    print_head(header)
    for i in candidates(network):
        if len(network.nodes[i].shape) < 3:
            continue
        alone = _value(cut_behind(network, [i]))
        for grid in GRIDS:
            own = unfolded(cut_behind(network, [i]), {0: grid})
            part = unfolded(subnetwork(network, 0, i), {0: grid})
            seconds, memory = _proof(part)
            pieces = [part_of(part, nodes) for nodes in pieces_of(part) if len(nodes) > 1]
            largest = max(elimination_of(piece).largest for piece in pieces)
            loss = f"{_value(own) / alone - 1:.2%}"
            tiles = "x".join(map(str, grid))
            print_row((name, network.nodes[i].path, tiles, loss, f"{seconds:.0f}", f"{memory / 1e6:.0f}", str(largest)))


def _value(network: Network) -> float:
    return propose(network, PowerOptions(tolerance=1e-5, max_iterations=300, dtype=torch.float32)).value


def _certificates(name: str, sample: Sample) -> list[tuple[str, dict[str, float], Outcome]]:
    """Without a limit, and within some."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.pt")
        torch.save(sample.model, weights)
        found = []
        for limits in LIMITS:
            settings = DCPConfig.from_dict({"failure_probability": 0, **limits}).to_dict()
            outcome = measure(certify, weights, sample.input_shape, settings, None, None, limit=900.0, threads=2)
            found.append((name, limits, outcome))
    return found


def _proof(network: Network) -> tuple[float, float]:
    proof = choose_proof(network, DCPConfig(proof="sparse"), cost_model(), 1e15)
    assert proof is not None
    return proof.seconds, proof.bytes


def _certified(name: str, limits: dict[str, float], outcome: Outcome) -> str:
    limit = ", ".join(f"{name}={value:.3g}" for name, value in limits.items()) or "no limit"
    values = outcome.values
    if outcome.status != "done":
        return f"- {name}, {limit}: {outcome.status}"
    return (
        f"- {name}, {limit}: {values['bound']:.6g}, {values['bound'] / values['product']:.4f} of the product, "
        f"{values['proof']}, {outcome.seconds:.0f} s, peak {outcome.peak:.0f} MB, imports {outcome.baseline:.0f}"
    )
