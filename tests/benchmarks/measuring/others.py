"""Methods of others, and lower bounds, each on the same weights in a process of its own.

None of the values here is proved in floating point; `bound` is what the method reports.
"""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipguard.certifying.lower_bound import ascend
from lipguard.trusted.layers import Activation, Conv2d, Layer, Linear, Pick, Scale
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.network.cutting import subnetwork
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.trace import trace

from .methods import load
from .process import Clock

Shape = tuple[int, ...]
Values = dict[str, Any]
_MOST_COLUMNS = 6000  # of a matrix that ECLipsE inverts


def gram_product(clock: Clock, weights: Path, shape: Shape) -> Values:
    """The product of norms by Gram iteration (Delattre et al., 2023), six steps.

    Convolutions on the torus of the padded image, where the zero-padded one embeds; a stride drops outputs of the dense
    one.
    """
    network = trace(load(weights), shape)
    with clock:
        bounds: list[float] = []
        for node in network.nodes:
            own = _gram_norm(node.layer, network.nodes[node.inputs[0]].shape) if node.inputs else 1.0
            bounds.append(own * sum(bounds[j] for j in node.inputs) if node.inputs else 1.0)
    return {"bound": bounds[-1], "proof": "none"}


def _gram_norm(layer: Layer, shape: Shape) -> float:
    """Of one layer on an input of that shape; 1 for what only moves entries."""
    if isinstance(layer, Linear):
        return _gram(layer.weight[None])
    if isinstance(layer, Scale):
        return float(layer.scale.abs().max())
    if isinstance(layer, Pick):
        return math.sqrt(layer.most)
    if isinstance(layer, Activation):
        return layer.lipschitz
    if not isinstance(layer, Conv2d):
        return 1.0
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.weight.shape[2:], strict=True)]
    sides = [shape[1 + a] + max(layer.padding[2 - 2 * a], 0) + max(layer.padding[3 - 2 * a], 0) for a in (0, 1)]
    rows, columns = (n + r for n, r in zip(sides, reach, strict=True))
    norm = 0.0
    for weight in layer.weight.chunk(layer.groups):
        spread = torch.zeros(*weight.shape[:2], rows, columns, dtype=torch.float64)
        spread[:, :, : reach[0] + 1 : layer.dilation[0], : reach[1] + 1 : layer.dilation[1]] = weight
        waves = torch.fft.fft2(spread).permute(2, 3, 0, 1).flatten(0, 1)
        norm = max(norm, max(_gram(part) for part in torch.split(waves[: len(waves)], 512)))
    return norm


def _gram(matrices: Tensor, steps: int = 6) -> float:
    """The largest bound |G_k|_F^(2^-k) of a batch of matrices."""
    G = matrices if matrices.shape[1] >= matrices.shape[2] else matrices.mH
    scale = torch.zeros(len(G), dtype=torch.float64)  # log of what was divided out
    for _ in range(steps):
        size = torch.linalg.matrix_norm(G).clamp_min(1e-300)
        G = G / size[:, None, None]
        scale = 2 * (scale + size.log())
        G = G.mH @ G
    logs = (torch.linalg.matrix_norm(G).clamp_min(1e-300).log() + scale) / 2**steps
    return float(logs.max().exp())


def liplt(clock: Clock, weights: Path, shape: Shape) -> Values:
    """LipLT (Fazlyab et al., 2023) of a chain of ReLU layers; norms by power iteration, 100 steps.

    relu(x) = (x + psi(x)) / 2 with psi of slopes in [-1, 1]: every path through a sum of linear maps and psi's has a
    norm, and norms of paths add up.
    """
    network = trace(load(weights), shape)
    chain = _chain(network)
    with clock:
        reach: list[float] = []  # Lipschitz constants of the pre-activations, and of the output
        for k in range(1, len(chain)):
            total = 0.5 ** (k - 1) * _norm(network, chain[0], chain[k])
            for j in range(1, k):
                total += 0.5 * 0.5 ** (k - j - 1) * _norm(network, chain[j], chain[k]) * reach[j - 1]
            reach.append(total)
    return {"bound": reach[-1], "proof": "none"}


def _chain(network: Network) -> list[int]:
    """The input, the activations and the output of a network in which every activation is on every path."""
    layers = [network.nodes[i].layer for i in network.activations]
    plain = all(isinstance(x, Activation) and (x.alpha, x.beta, x.group) == (0.0, 1.0, 1) for x in layers)
    if not (plain and set(network.activations) <= set(network.separators)):
        raise ArithmeticError("not a chain of layers with slopes in [0, 1]")
    return [0, *network.activations, len(network.nodes) - 1]


def _norm(network: Network, start: int, stop: int) -> float:
    """Of the linear maps between two nodes; what the activations in between would do is left out, the last one, too."""
    part = subnetwork(network, start, stop)
    last = len(part.nodes) - 1

    def linear(x: Tensor) -> Tensor:
        def step(i: int, inputs: tuple[Tensor, ...]) -> Tensor:
            layer = part.nodes[i].layer
            return inputs[0] if isinstance(layer, Activation) else layer.linear(*inputs)

        assert last
        return part.run(x, step)

    x = torch.randn(1, *part.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    size = 0.0
    for _ in range(100):
        x = (x / x.norm().clamp_min(1e-300)).requires_grad_()
        y = linear(x)
        size = float(y.norm().detach())
        (x,) = torch.autograd.grad(y, x, y.detach())
    return size


def eclipse(clock: Clock, weights: Path, shape: Shape, method: str) -> Values:
    """ECLipsE and ECLipsE-Fast (Xu and Sivaranjani, 2024) by the package eclipse-nn, on the matrices of a chain."""
    from eclipse_nn.LipConstEstimator import LipConstEstimator  # pip install eclipse-nn

    network = trace(load(weights), shape)
    _chain(network)
    if max(node.size for node in network.nodes) > _MOST_COLUMNS:
        raise ArithmeticError("its matrices are too large")
    with clock:
        freed = FreedNetwork.assemble(network)
        sizes = [network.nodes[i].size for i in network.activations]
        ends = np.cumsum([0, *sizes])
        spans = list(itertools.pairwise(ends))
        columns = [slice(0, freed.n_x), *(slice(freed.n_x + a, freed.n_x + b) for a, b in spans)]
        rows = [freed.K[a:b] for a, b in spans] + [freed.Y]
        matrices = [torch.from_numpy(np.ascontiguousarray(r[:, c])) for r, c in zip(rows, columns, strict=True)]
        bound = float(LipConstEstimator(weights=matrices).estimate(method=method))
    return {"bound": bound, "proof": "none"}


def lower(clock: Clock, weights: Path, shape: Shape, seconds: float) -> Values:
    """The largest Jacobian norm that gradient ascent finds from many starts, in so many seconds."""
    network = trace(load(weights), shape)
    best, restarts = 0.0, 0
    with clock:
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            generator = torch.Generator().manual_seed(restarts)
            scale = 10 ** (2 * torch.rand(16, *(1 for _ in shape), generator=generator, dtype=torch.float64) - 1)
            x = scale * torch.randn(16, *shape, generator=generator, dtype=torch.float64)
            best = max(best, ascend(network, x, restarts, 60, 1e9, began + seconds)[0])
            restarts += 1
    return {"bound": best, "proof": "lower", "restarts": restarts}
