"""What rigour costs: proofs beside plain Cholesky factorisations of the same matrices.

For networks that fit a dense matrix (`LIPGUARD_PEERS`, `LIPGUARD_MNIST`), with the multipliers of their certificates:
the smallest rho that the proof accepts over the smallest that an unshifted Cholesky accepts, by bisection, as bounds;
the reported bound over the latter; the time of the proof, with the assembly of its matrix, over that of a plain dense
Cholesky of the same matrix; and the time of `lipguard.verify` of a certificate from its file.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.linalg
import torch

import lipguard
from lipguard import Certificate, DCPConfig
from lipguard.certifying.hints import HINTS
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.proofs.claim import Claim, Means
from lipguard.trusted.proofs.kinds import proves
from lipguard.trusted.reading.trace import trace

from ..networks.named import samples
from ..networks.sample import Sample
from ..reporting.markdown import print_head, print_row

HEADER = ("network", "rows", "proof", "proof's rho over plain", "reported over plain", "time over plain", "verify, s")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study."""
    parser.add_argument("--only", default="", help="networks whose name contains this")


def run(chosen: argparse.Namespace) -> None:
    """Print the table."""
    torch.set_num_threads(2)
    print_head(HEADER)
    names = ["fnn2", "fnn3", "cnn2", "cnn3", "CNN1"]
    for name in [n for n in names if chosen.only.lower() in n.lower()]:
        for sample in samples(name, [0], print):
            print_row(_row(sample))


def _row(sample: Sample) -> tuple[str, ...]:
    """The proof's smallest rho, reported bound and time, over those of a plain Cholesky of the same matrix."""
    report = lipguard.certify(sample.model, sample.input_shape, DCPConfig(failure_probability=0))
    (block,), ((t,),) = report.plan.blocks, report.certificate.multipliers
    network = trace(sample.model, sample.input_shape)
    freed = FreedNetwork.assemble(network)
    assert freed.input_is_apart
    (Q, R), rho = freed.hidden(t), float(report.certificate.forms[0][0])

    def plain(value: float) -> bool:
        matrix = R - Q @ Q.T / value
        try:
            scipy.linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            return False
        return True

    def rigorous(value: float) -> bool:
        return proves(Claim(t, value, block.proof), network, Means(HINTS))

    least = _smallest(plain, rho)
    excess = math.sqrt(_smallest(rigorous, rho) / least) - 1
    ratio = _seconds(lambda: rigorous(rho)) / _seconds(lambda: plain(rho))
    with tempfile.TemporaryDirectory() as folder:
        path = report.certificate.save(Path(folder, "certificate.npz"))
        verified = _seconds(lambda: lipguard.verify(Certificate.load(path), sample.model), 1)
    return (
        sample.name, str(len(R)), block.proof, f"{excess:.1e}", f"{report.bound / math.sqrt(least) - 1:.1e}",
        f"{ratio:.2f}", f"{verified:.2f}",
    )  # fmt: skip


def _smallest(accepts: Callable[[float], bool], high: float) -> float:
    """By bisection down to a relative 1e-10."""
    low = 0.9 * high
    assert accepts(high)
    assert not accepts(low)
    while high / low > 1 + 1e-10:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if accepts(middle) else (middle, high)
    return high


def _seconds(run: Callable[[], object], repeat: int = 5) -> float:
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)
