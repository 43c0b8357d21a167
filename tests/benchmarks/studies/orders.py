"""Two orders of elimination for the matrices of sparse proofs: what each takes, by counts alone.

    python tests/benchmarks/orders.py

Operations of the factorisation, with those that moving entries is worth, and megabytes of fronts and stacks.
"""

from __future__ import annotations

from torch import nn

from lipguard.planning.orders.elimination import eliminate, operations
from lipguard.planning.orders.sites import SiteGraph, site_graph
from lipguard.trusted.reading.trace import trace

from ..networks.training import NETWORKS


def main() -> None:
    """Print the table."""
    print("| network | minimum degree | nested dissection, or the better |")
    print("|---|---|---|")
    named = {name: (build(), shape) for name, (build, shape) in NETWORKS.items()}
    named |= {
        f"{depth} convolutions of 8 channels, {size}x{size}": (_convolutions(depth, size), (1, size, size))
        for depth, size in ((4, 28), (4, 56), (16, 28))
    }
    for name, (model, shape) in named.items():
        graph = site_graph(trace(model.eval(), shape))
        orders = eliminate(SiteGraph(graph.site, graph.meets)), eliminate(graph)
        cells = [f"{operations(order):.2g}, {order.bytes / 1e6:,.0f} MB" for order in orders]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _convolutions(depth: int, size: int) -> nn.Module:
    layers = [m for i in range(depth) for m in (nn.Conv2d(8 if i else 1, 8, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*layers, nn.AvgPool2d(size), nn.Flatten(), nn.Linear(8, 10))


if __name__ == "__main__":
    main()
