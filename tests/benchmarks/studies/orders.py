"""Two orders of elimination for the matrices of sparse proofs: what each takes, by counts alone.

Operations of the factorisation, with those that moving entries is worth, and megabytes of fronts and stacks.
"""

from __future__ import annotations

import argparse

from torch import nn

from lipguard.planning.orders.elimination import eliminate, operations
from lipguard.planning.orders.sites import SiteGraph, site_graph
from lipguard.trusted.reading.trace import trace

from ..networks.trained import NETWORKS
from ..reporting.markdown import print_head, print_row


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study: none."""


def run(chosen: argparse.Namespace) -> None:
    """Print the table."""
    print_head(("network", "minimum degree", "nested dissection, or the better"))
    named = {name: (build(), shape) for name, (build, shape) in NETWORKS.items()}
    named |= {
        f"{depth} convolutions of 8 channels, {size}x{size}": (_convolutions(depth, size), (1, size, size))
        for depth, size in ((4, 28), (4, 56), (16, 28))
    }
    for name, (model, shape) in named.items():
        graph = site_graph(trace(model.eval(), shape))
        orders = eliminate(SiteGraph(graph.site, graph.meets)), eliminate(graph)
        print_row((name, *(f"{operations(order):.2g}, {order.bytes / 1e6:,.0f} MB" for order in orders)))


def _convolutions(depth: int, size: int) -> nn.Module:
    layers = [m for i in range(depth) for m in (nn.Conv2d(8 if i else 1, 8, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*layers, nn.AvgPool2d(size), nn.Flatten(), nn.Linear(8, 10))
