"""An LMI as a conic solver is asked it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from lipguard.trusted.lmi.freed import FreedNetwork, ties
from lipguard.trusted.network.graph import Network

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Problem:
    """Minimise rho subject to A(rho, t) >= 0, t >= 0, for a network whose layers have norms of about one.

    LipSDP is invariant to a positive factor per variable: with `b_i = s_i b'_i` and the output measured in units of its
    own product bound, `t'_i = t_i s_i^2 / s_out^2` and `rho' = rho / s_out^2 <= 1`.

    Attributes:
        K: pre-activations, shape (neurons, n_x + neurons), balanced.
        Y: outputs, shape (outputs, n_x + neurons), balanced.
        alpha, beta: slope ranges, shape (neurons,).
        n_x: number of input entries after compression.
        unit: multipliers of the original network are `t' * unit`.
        output_unit: the original bound is `sqrt(rho') * output_unit`.
        ties: for every neuron the number of its multiplier, shape (neurons,).
    """

    K: Array
    Y: Array
    alpha: Array
    beta: Array
    n_x: int
    unit: Array
    output_unit: float
    ties: NDArray[np.int64]

    @classmethod
    def build(cls, network: Network, freed: FreedNetwork, scales: Sequence[float]) -> Problem:
        """Balance with `scales`, a Lipschitz constant (rough ones serve) of every node."""
        usable = [scale if 0 < scale < np.inf else 1.0 for scale in scales]
        neuron = np.concatenate(
            [np.zeros(0), *(np.full(network.nodes[i].size, usable[i]) for i in network.activations)]
        )
        columns = np.concatenate([np.ones(freed.n_x), neuron])
        K, Y = freed.K * columns / neuron[:, None], freed.Y * columns / usable[-1]
        K, Y, n_x = _compressed(K, Y, freed.n_x)
        return cls(K, Y, freed.alpha, freed.beta, n_x, (usable[-1] / neuron) ** 2, usable[-1], ties(network))

    @property
    def size(self) -> int:
        """Rows of the LMI."""
        return int(self.K.shape[1])

    def coefficients(self) -> tuple[scipy.sparse.csc_array, Array]:
        """(C, c) with vec A(rho, t) = C (rho, t) + c, row by row."""
        n, N = self.n_x, self.size
        entries = [(np.arange(n) * (N + 1), np.ones(n)), *(self._multiplier_entries(i) for i in range(len(self.K)))]
        rows, values = zip(*entries, strict=True)
        columns = np.repeat(np.arange(len(entries)), [len(row) for row in rows])
        index = (np.concatenate(rows), columns)
        C = scipy.sparse.coo_array((np.concatenate(values), index), shape=(N * N, len(self.K) + 1))
        shared = scipy.sparse.coo_array((np.ones(len(entries)), (np.arange(len(entries)), np.append(0, 1 + self.ties))))
        return (C.tocsc() @ shared).tocsc(), -(self.Y.T @ self.Y).ravel()

    def _multiplier_entries(self, i: int) -> tuple[NDArray[np.int64], Array]:
        """Where t_i stands in vec A, and its factors: 2 b b - (alpha + beta) (a b + b a) + 2 alpha beta a a."""
        N, own, k = self.size, self.n_x + i, self.K[i]
        read = np.flatnonzero(k)
        cross = -(self.alpha[i] + self.beta[i]) * k[read]
        rows = [np.array([own * N + own]), read * N + own, own * N + read]
        values = [np.array([2.0]), cross, cross]
        if self.alpha[i] * self.beta[i] != 0:
            rows.append((read[:, None] * N + read).ravel())
            values.append(2 * self.alpha[i] * self.beta[i] * np.outer(k[read], k[read]).ravel())
        return np.concatenate(rows), np.concatenate(values)


def _compressed(K: Array, Y: Array, n_x: int) -> tuple[Array, Array, int]:
    """Rotate the input onto the span of what reads it; directions that nothing reads only say rho >= 0."""
    readers = np.vstack([K[:, :n_x], Y[:, :n_x]])
    readers = readers[np.abs(readers).any(axis=1)]
    if not 0 < len(readers) < n_x:
        return K, Y, n_x
    Q, R = np.linalg.qr(readers.T)  # (n_x, r)
    Q = Q * np.where(np.diag(R) < 0, -1.0, 1.0)  # the same basis for nearby weights, so that a warm start fits
    return np.hstack([K[:, :n_x] @ Q, K[:, n_x:]]), np.hstack([Y[:, :n_x] @ Q, Y[:, n_x:]]), Q.shape[1]


@dataclass(frozen=True, eq=False)
class Job:
    """One solve."""

    problem: Problem
    state: Mapping[str, Array]
    seconds: float  # predicted
