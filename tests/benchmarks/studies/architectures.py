"""Architectures as people write them, trained lightly, then certified with the defaults.

Those for 28x28 see MNIST, those for 3x32x32 the same images in colours. With `--domain` the small ones also on [0, 1],
and around an image.
"""

from __future__ import annotations

import argparse
import time

import lipguard

from ..networks.architectures import CASES, SMALL, trained
from ..networks.training import mnist
from ..reporting.markdown import print_head, print_row

HEADER = ("network", "accuracy", "product", "bound", "ratio", "lower bound", "proof", "seconds", "wanted")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study."""
    parser.add_argument("--only", default="", help="architectures whose name contains this")
    parser.add_argument("--domain", action="store_true", help="also on [0, 1], and around an image")


def run(chosen: argparse.Namespace) -> None:
    """Print one row per architecture."""
    images, labels = mnist()
    print_head(HEADER)
    for case in CASES:
        if chosen.only not in case.name:
            continue
        model, accuracy = trained(case, images, labels)
        began = time.perf_counter()
        report = lipguard.certify(model, case.shape)
        seconds = time.perf_counter() - began
        print_row((
            case.name, f"{accuracy:.3f}", f"{report.product_bound:.4g}", f"{report.bound:.4g}",
            f"{report.bound / report.product_bound:.3g}", f"{report.lower_bound:.4g}", report.proof, f"{seconds:.1f}",
            f"{case.ratio}, {case.seconds:.0f} s" if case.ratio else f"{case.seconds:.0f} s",
        ))  # fmt: skip
        if chosen.domain and case.shape == SMALL:
            for name, domain in (("[0, 1]", lipguard.Box(0, 1)), ("within 0.25", lipguard.Ball(images[-1], 0.25))):
                within = lipguard.certify(model, case.shape, domain=domain).restricted
                assert within is not None
                print_row((
                    f"... {name}", "", "", f"{within.bound:.4g}", f"{within.bound / report.bound:.4f} of it",
                    f"{within.lower_bound:.4g}", within.proof, f"{within.seconds:.1f}", "",
                ))  # fmt: skip
