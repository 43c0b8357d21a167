"""What products lose that fall below the normal numbers, in absolute terms: relative errors do not count it.

With a result below 2^-1022 a multiplication is off by less than that, also where subnormal numbers are flushed to zero.
Sums lose nothing. A loss goes on through the layers behind it, with the magnitudes of their weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipguard.trusted.layers import Activation, Layer, Shape
from lipguard.trusted.network.graph import Network
from lipguard.trusted.rounding import SMALLEST_NORMAL, add_up, mul_up

Array = NDArray[np.float64]
# Squares of bounds and multipliers in between, with slopes that are zero or in between, have normal products.
SMALLEST_MULTIPLIER, SMALLEST_SLOPE = 2.0**-800, 2.0**-100
_SAFE = 2.0**-900  # products of weights above this need no term
_CANCELLED = 2.0**-60  # what a sum of some numbers is at least, times the smallest of them, if it is not zero


def is_in_range(t: Array, rho: float | Array, alpha: Array, beta: Array) -> bool:
    """Whether multipliers, the square of a bound and slopes are so far from the ends that their products are normal."""
    weights = np.concatenate([np.ravel(t), np.ravel(rho)])
    slopes = np.abs(np.concatenate([alpha, beta]))
    ordinary = (slopes == 0) | (slopes >= SMALLEST_SLOPE) & (slopes <= 1 / SMALLEST_SLOPE)
    return bool(((weights >= SMALLEST_MULTIPLIER) & (weights <= 1 / SMALLEST_MULTIPLIER)).all() and ordinary.all())


def matrix_losses(network: Network) -> list[float]:
    """For every node, of an entry of the matrix from the free variables to it; 0 where all products are normal."""
    magnitudes = network.absolute()
    least: list[float] = []  # that an entry is, if it is not zero
    losses: list[float] = []
    for node in magnitudes.nodes:
        if not node.inputs or isinstance(node.layer, Activation):
            least.append(1.0)
            losses.append(0.0)
            continue
        smallest = min(least[j] for j in node.inputs) * _smallest(node.layer)
        least.append(smallest * _CANCELLED if node.layer.roundings() else smallest)
        carried = max(losses[j] for j in node.inputs)
        if least[-1] >= _SAFE and carried == 0:
            losses.append(0.0)
        else:
            losses.append(_onward(node.layer, [network.nodes[j].shape for j in node.inputs], carried))
    return losses


def row_losses(network: Network) -> tuple[Array, float]:
    """`matrix_losses` of an entry in every row of K, shape (neurons,), and of an entry of Y."""
    losses = matrix_losses(network)
    reads = [(losses[network.nodes[i].inputs[0]], network.nodes[i].size) for i in network.activations]
    return np.concatenate([np.zeros(0), *(np.full(size, loss) for loss, size in reads)]), losses[-1]


def forward_losses(network: Network) -> list[float]:
    """For every node, of an entry of its value in a forward pass of the linearised network with any numbers.

    Args:
        network: with the magnitudes of all weights.
    """
    losses: list[float] = []
    for node in network.nodes:
        if not node.inputs or isinstance(node.layer, Activation):
            losses.append(SMALLEST_NORMAL)  # what is free is a product of its own
        else:
            carried = max(losses[j] for j in node.inputs)
            losses.append(_onward(node.layer, [network.nodes[j].shape for j in node.inputs], carried))
    return losses


def backward_losses(network: Network, arriving: Mapping[int, float]) -> list[float]:
    """For every node, of an entry of the gradient with respect to its value, in a backward pass.

    Args:
        network: with the magnitudes of all weights.
        arriving: what is lost of the gradients that arrive from outside, by node.
    """
    losses = [arriving.get(i, 0.0) for i in range(len(network.nodes))]
    for i in range(len(network.nodes) - 1, 0, -1):
        node = network.nodes[i]
        if isinstance(node.layer, Activation):
            continue
        gain = _gains(node.layer, [network.nodes[j].shape for j in node.inputs])[1]
        own = add_up(mul_up(gain, losses[i]), mul_up(float(node.layer.adjoint_roundings()), SMALLEST_NORMAL))
        for j in node.inputs:
            losses[j] = add_up(losses[j], own)
    return losses


def _onward(layer: Layer, shapes: Sequence[Shape], carried: float) -> float:
    own = mul_up(float(layer.roundings()), SMALLEST_NORMAL)
    return add_up(mul_up(_gains(layer, shapes)[0], carried), own) if carried else own


def _gains(layer: Layer, shapes: Sequence[Shape]) -> tuple[float, float]:
    """The largest sum of magnitudes in a row, and in a column, of the matrix of a layer of magnitudes."""
    device = next((t.device for t in vars(layer).values() if isinstance(t, Tensor)), torch.device("cpu"))
    ones = [torch.ones(1, *shape, dtype=torch.float64, device=device, requires_grad=True) for shape in shapes]
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        y = layer.linear(*ones)
        columns = torch.autograd.grad(y.sum(), ones, allow_unused=True)
    row = float(y.detach().max())
    column = max((float(c.max()) for c in columns if c is not None), default=0.0)
    if not (math.isfinite(row) and math.isfinite(column)):
        return math.inf, math.inf
    return 1.001 * row, 1.001 * column  # sums of positive numbers


def _smallest(layer: Layer) -> float:
    """The smallest weight that is not zero, or one."""
    tensors = [t for t in vars(layer).values() if isinstance(t, Tensor) and t.is_floating_point() and t.numel()]
    found = [float(t[t > 0].min()) for t in tensors if bool((t > 0).any())]
    return min([1.0, *found])
