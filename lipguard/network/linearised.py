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

from lipguard.network.graph import Network
from lipguard.network.layers import Activation

Array = NDArray[np.float64]
_COLUMNS_AT_ONCE = 512


def propagate(network: Network, x: Tensor, activate: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Run the linearised network on `x` of shape (batch, *input_shape); `activate(i, a)` replaces activation `i`."""

    def step(i: int, inputs: tuple[Tensor, ...]) -> Tensor:
        layer = network.nodes[i].layer
        return activate(i, inputs[0]) if isinstance(layer, Activation) else layer.linear(*inputs)

    return network.run(x, step)


@dataclass(frozen=True, eq=False)
class FreedNetwork:
    """The matrices of `a = K z` and `y = Y z`, with entrywise bounds on what floating point lost in them.

    Attributes:
        K: pre-activations, shape (neurons, n_x + neurons).
        Y: outputs, shape (outputs, n_x + neurons).
        K_abs, Y_abs: the same with the magnitudes of all weights.
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
        """Probe the network, and its absolute twin, with the columns of the identity."""
        K, Y = _probe(network)
        K_abs, Y_abs = _probe(network.absolute())
        slopes = [(network.nodes[i].layer, network.nodes[i].size) for i in network.activations]
        alpha = [np.full(size, layer.alpha) for layer, size in slopes if isinstance(layer, Activation)]
        beta = [np.full(size, layer.beta) for layer, size in slopes if isinstance(layer, Activation)]
        return cls(
            K, Y, K_abs, Y_abs,
            np.concatenate([np.zeros(0), *alpha]), np.concatenate([np.zeros(0), *beta]),
            network.nodes[0].size, sum(node.layer.roundings() for node in network.nodes),
        )  # fmt: skip

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


def _probe(network: Network) -> tuple[Array, Array]:
    """K and Y of the freed network, column by column."""
    sizes = {i: network.nodes[i].size for i in network.activations}
    n_x = network.nodes[0].size
    offsets = dict(zip(sizes, n_x + np.cumsum([0, *sizes.values()]), strict=False))
    total, neurons = n_x + sum(sizes.values()), sum(sizes.values())
    K = np.empty((neurons, total))
    Y = np.empty((network.nodes[-1].size, total))
    for start in range(0, total, _COLUMNS_AT_ONCE):
        columns = torch.arange(start, min(start + _COLUMNS_AT_ONCE, total))
        z = torch.zeros(len(columns), total, dtype=torch.float64)
        z[torch.arange(len(columns)), columns] = 1

        def free(i: int, a: Tensor, z: Tensor = z, columns: Tensor = columns) -> Tensor:
            first, size = offsets[i], sizes[i]
            K[first - n_x : first - n_x + size, columns.numpy()] = a.reshape(len(columns), -1).numpy().T
            return z[:, first : first + size].reshape(a.shape)

        y = propagate(network, z[:, :n_x].reshape(-1, *network.input_shape), free)
        Y[:, columns.numpy()] = y.reshape(len(columns), -1).numpy().T
    return K, Y
