"""The bias-free network with its activations freed, and the matrices of LipSDP's LMI that it yields.

With the output `b` of every activation a free variable, everything else is linear in `z = (x, b_1, .., b_L)`: the
pre-activations `a = K z` and the output `y = Y z`. LipSDP-Neuron (Fazlyab et al., 2019, Theorem 2) is then

    A(rho, t) = rho |x|^2 - |Y z|^2 + 2 sum_i t_i (b_i - alpha_i a_i)(b_i - beta_i a_i) >= 0   for all z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipguard.trusted.layers import Activation
from lipguard.trusted.lmi.matrices import freed_matrices
from lipguard.trusted.lmi.underflow import SMALLEST_SLOPE, row_losses
from lipguard.trusted.network.graph import Network
from lipguard.trusted.rounding import SMALLEST_NORMAL, add_up, mul_up

Array = NDArray[np.float64]
_COVERING = 2.0**54  # times a loss: gamma_1 of it is above the loss


def propagate(network: Network, x: Tensor, activate: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Run the linearised network on `x` of shape (batch, *input_shape); `activate(i, a)` replaces activation `i`."""

    def step(i: int, inputs: tuple[Tensor, ...]) -> Tensor:
        layer = network.nodes[i].layer
        return activate(i, inputs[0]) if isinstance(layer, Activation) else layer.linear(*inputs)

    return network.run(x, step)


def pre_activations(network: Network, z: Tensor) -> Tensor:
    """a = K z for rows z = (x, b_1, .., b_L), shape (vectors, n_x + neurons), without writing K out."""
    sizes = [network.nodes[0].size, *(network.nodes[i].size for i in network.activations)]
    x, *answers = torch.split(z, sizes, dim=1)
    free = dict(zip(network.activations, answers, strict=True))
    found: list[Tensor] = []

    def activate(i: int, a: Tensor) -> Tensor:
        found.append(a.reshape(len(a), -1))
        return free[i].reshape(-1, *network.nodes[i].shape)

    propagate(network, x.reshape(-1, *network.input_shape), activate)
    return torch.cat(found, dim=1) if found else z[:, :0]


@dataclass(frozen=True, eq=False)
class FreedNetwork:
    """The matrices of `a = K z` and `y = Y z`, with entrywise bounds on what floating point lost in them.

    Attributes:
        K: pre-activations, shape (neurons, n_x + neurons).
        Y: outputs, shape (outputs, n_x + neurons).
        K_abs, Y_abs: the same with the magnitudes of all weights, and so much more that gamma times it covers what
            underflow took.
        alpha, beta: slope range of every neuron, shape (neurons,).
        n_x: number of input entries.
        roundings: |K - exact| <= gamma(roundings) K_abs entrywise, and so for Y (Higham, Accuracy and Stability of
            Numerical Algorithms, Lemma 3.1: relative errors of products along a path add up).
    """

    K: Array
    Y: Array
    K_abs: Array
    Y_abs: Array
    alpha: Array
    beta: Array
    n_x: int
    roundings: int

    @classmethod
    def assemble(cls, network: Network) -> FreedNetwork:
        """Write out the matrices of the network and of its absolute twin."""
        K, Y = (matrix.toarray() for matrix in freed_matrices(network))
        K_abs, Y_abs = (matrix.toarray() for matrix in freed_matrices(network.absolute()))
        of_rows, of_output = row_losses(network)
        if of_rows.any() or of_output:  # every computed entry is off by gamma_1 of this much more, at most
            K_abs, Y_abs = K_abs + _COVERING * of_rows[:, None], Y_abs + _COVERING * of_output
        return cls(K, Y, K_abs, Y_abs, *slope_ranges(network), network.nodes[0].size, max(roundings(network), 1))

    @property
    def neurons(self) -> int:
        """Number of activations, over all layers."""
        return len(self.alpha)

    def quadratic(self, t: Array) -> Array:
        """A(0, t): the LMI's matrix without its input term, shape (N, N)."""
        return self._form(self.K, self.Y, t, -1.0, self.n_x)

    def quadratic_abs(self, t: Array) -> Array:
        """The sum of the terms' magnitudes: times gamma(`form_roundings`) it bounds the error of `quadratic`."""
        return self._form(self.K_abs, self.Y_abs, np.abs(t), 1.0, self.n_x)

    @cached_property
    def input_is_apart(self) -> bool:
        """Whether the input block of A(0, t) is zero for every t, as where the input reaches ReLUs only."""
        bent = self.alpha * self.beta != 0
        return not (self.Y_abs[:, : self.n_x].any() or self.K_abs[bent, : self.n_x].any())

    def hidden(self, t: Array) -> tuple[Array, Array]:
        """(Q, R): the blocks of A(0, t) between neurons and input, (neurons, n_x), and between neurons.

        Only where `input_is_apart`: then A(rho, t) = [[rho I, Q'], [Q, R]].
        """
        return self._hidden(self.K, self.Y, t, -1.0)

    def hidden_abs(self, t: Array) -> tuple[Array, Array]:
        """The magnitudes of `hidden`, as `quadratic_abs` has those of `quadratic`."""
        return self._hidden(self.K_abs, self.Y_abs, np.abs(t), 1.0)

    @cached_property
    def form_roundings(self) -> int:
        """Roundings that an entry of `quadratic` collects: twice those of K or Y, an inner product, and the sums."""
        return 2 * self.roundings + max(self.neurons, len(self.Y)) + 16

    def form_underflow(self) -> float:
        """What products below the normal numbers take from an entry of `quadratic` or `hidden`, beside the above.

        Multipliers that are proved and slopes are in the range of `underflow.is_in_range`: the product of both is
        normal, and times an entry of K off by one such number, which a further entry of K may carry on.
        """
        bent = self.alpha * self.beta != 0
        columns = float(self.K_abs[bent].sum(axis=0).max(initial=0.0))
        return mul_up(2.0, SMALLEST_NORMAL, add_up(16.0 + self.neurons + len(self.Y), 1.001 * columns))

    def _slopes(self, sign: float) -> tuple[Array, Array]:
        """alpha + beta and 2 alpha beta, of the magnitudes where `sign` > 0."""
        alpha, beta = (np.abs(self.alpha), np.abs(self.beta)) if sign > 0 else (self.alpha, self.beta)
        return alpha + beta, 2 * alpha * beta

    def _hidden(self, K: Array, Y: Array, t: Array, sign: float) -> tuple[Array, Array]:
        n = self.n_x
        return sign * ((self._slopes(sign)[0] * t)[:, None] * K[:, :n]), self._form(K[:, n:], Y[:, n:], t, sign, 0)

    def _form(self, K: Array, Y: Array, t: Array, sign: float, n: int) -> Array:
        """2 B'TB + s (alpha + beta) (B'TK + K'TB) + 2 alpha beta K'TK + s Y'Y; the neurons begin at column n."""
        both, product = self._slopes(sign)
        A = sign * (Y.T @ Y)
        cross = sign * ((both * t)[:, None] * K)  # (neurons, N): row i belongs to b_i
        A[n:, :] += cross
        A[:, n:] += cross.T
        A[np.arange(n, len(A)), np.arange(n, len(A))] += 2 * t
        bent = product != 0
        if bent.any():
            A += K[bent].T @ ((product * t)[bent, None] * K[bent])
        return A


def slope_ranges(network: Network) -> tuple[Array, Array]:
    """(alpha, beta) of every neuron, in order of execution; a slope next to zero is moved outward, to a larger one."""
    layers = [(network.nodes[i].layer, network.nodes[i].size) for i in network.activations]
    alpha = [np.full(size, -_outward(-layer.alpha)) for layer, size in layers if isinstance(layer, Activation)]
    beta = [np.full(size, _outward(layer.beta)) for layer, size in layers if isinstance(layer, Activation)]
    return np.concatenate([np.zeros(0), *alpha]), np.concatenate([np.zeros(0), *beta])


def _outward(slope: float) -> float:
    """The slope, or one above it that is zero or of ordinary size."""
    return slope if slope == 0 or abs(slope) >= SMALLEST_SLOPE else SMALLEST_SLOPE if slope > 0 else 0.0


def ties(network: Network) -> NDArray[np.int64]:
    """For every neuron the number of its multiplier: those of a group share one."""
    numbers: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    start = 0
    for i in network.activations:
        layer, size = network.nodes[i].layer, network.nodes[i].size
        assert isinstance(layer, Activation)
        numbers.append(start + np.arange(size) // layer.group)
        start += size // layer.group
    return np.concatenate(numbers)


def are_tied(network: Network, t: Array) -> bool:
    """Whether the multipliers of every group are one."""
    numbers = ties(network)
    if not len(numbers) or numbers[-1] + 1 == len(numbers):
        return True
    first = np.unique(numbers, return_index=True)[1]
    return np.array_equal(t, t[first][numbers])


def path_roundings(network: Network) -> tuple[list[int], list[int]]:
    """For every node the most relative roundings along a path from the last activation or the input to it.

    Returns:
        (forward, backward): of an entry of the map as a forward pass computes it, and of the transposed map in a
        backward pass, where gradients add up at every node that is read more than once.
    """
    forward: list[int] = []
    backward: list[int] = []
    reads = [0] * len(network.nodes)
    for node in network.nodes:
        for j in node.inputs:
            reads[j] += 1
    for node in network.nodes:
        if not node.inputs or isinstance(node.layer, Activation):
            forward.append(0)
            backward.append(0)
            continue
        own = max(node.layer.roundings(), len(node.inputs) - 1)
        forward.append(own + max(forward[j] for j in node.inputs))
        backward.append(node.layer.adjoint_roundings() + max(backward[j] + reads[j] - 1 for j in node.inputs))
    return forward, backward


def roundings(network: Network) -> int:
    """The most relative roundings that an entry of K or Y collects."""
    return max(path_roundings(network)[0])
