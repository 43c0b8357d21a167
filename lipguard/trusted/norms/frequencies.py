"""The norm of a periodic convolution, the largest over its frequencies.

The circular norm at the image's own size ignores that zero padding is not periodic: it is no bound.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipguard.trusted.layers import (
    Conv2d,
)
from lipguard.trusted.norms.matrices import check
from lipguard.trusted.rounding import UNIT_ROUNDOFF, add_up, gamma_up, ldexp_up, mul_up, sqrt_up, up


@np.errstate(over="ignore", invalid="ignore")
def frequency_norm(layer: Conv2d, torus: Sequence[int], deadline: float = math.inf) -> float:
    """The norm of the periodic convolution on the torus, the largest over its frequencies.

    A stride s splits the input into s interleaved phases per axis (tap d k reads phase d k mod s, shifted by
    d k div s), so that frequency theta has the matrix [W_phase(theta)] of shape (out, in * phases).
    """
    weight = layer.weight
    taps = [np.arange(k) * d for k, d in zip(weight.shape[2:], layer.dilation, strict=True)]
    phase = [tap % s for tap, s in zip(taps, layer.stride, strict=True)]
    waves = [_waves(tap // s, m) for tap, s, m in zip(taps, layer.stride, torus, strict=True)]
    select = [np.eye(s)[p] for s, p in zip(layer.stride, phase, strict=True)]  # (taps, phases) per axis
    rows, columns = waves[0], waves[1][: torus[1] // 2 + 1]  # the other half is conjugate
    folded = np.einsum("oihw,hp,wq->oiphqw", weight.numpy(), select[0], select[1])  # one term each: exact
    scale = math.frexp(float(weight.abs().max()))[1]
    folded = np.ldexp(folded, -scale)
    sums = np.abs(folded).sum(axis=(3, 5)).reshape(len(weight), -1)  # (out, in * phases), bounds every |W(theta)|
    # A wave is off by less than 64 u, the sums over taps by gamma; the Gram matrix by its inner products.
    relative = add_up(64 * UNIT_ROUNDOFF, gamma_up(2 * math.prod(weight.shape[2:]) + layer.weight_ulps + 8))
    lost = mul_up(2.0, add_up(mul_up(4.0, relative), gamma_up(4 * sum(sums.shape))), float((sums**2).sum()), 1.001)
    lost = add_up(lost, 2.0**-900)  # underflow, of numbers up to one
    largest = _LargestEigenvalue(min(sums.shape))
    began = time.monotonic()
    for done, wave in enumerate(rows[np.random.default_rng(0).permutation(len(rows))]):
        # The first takes longer than those behind it: its matrices are all decomposed.
        check(deadline, 0.5 * (time.monotonic() - began) * (len(rows) - done) / done if done else 0.0)
        partial = np.einsum("oiphqw,h->oipqw", folded, wave)
        response = np.einsum("oipqw,fw->foipq", partial, columns).reshape(len(columns), *sums.shape)
        if sums.shape[0] > sums.shape[1]:
            response = response.conj().transpose(0, 2, 1)
        largest.cover(response @ response.conj().transpose(0, 2, 1))
    return ldexp_up(sqrt_up(add_up(largest.bound, lost)), scale)


def _waves(shifts: NDArray[np.int64], m: int) -> NDArray[np.complex128]:
    """exp(2 pi i theta shift / m), shape (m, taps), the angle reduced exactly."""
    turns = np.outer(np.arange(m), shifts) % m
    angle = 2 * np.pi * turns / m
    return np.cos(angle) + 1j * np.sin(angle)


class _LargestEigenvalue:
    """A proved bound of the eigenvalues of many computed PSD matrices, which are complex and of order n.

    Cholesky shows that a matrix is below the bound; only those that are not are decomposed. In random order that
    happens to few.
    """

    def __init__(self, n: int) -> None:
        self.bound = 0.0
        self._n = n

    def cover(self, gram: NDArray[np.complex128]) -> None:
        """Raise the bound until it covers a batch of matrices, shape (batch, n, n)."""
        n = self._n
        # The same eigenvalues, twice each, in real arithmetic; what is above the diagonal is not read.
        G = torch.zeros(len(gram), 2 * n, 2 * n, dtype=torch.float64)
        G[:, :n, :n] = G[:, n:, n:] = torch.from_numpy(gram.real)
        G[:, n:, :n] = torch.from_numpy(gram.imag)
        G = G[~self._are_below(G, self.bound)]
        if not len(G):
            return
        estimate = max(self.bound, float(torch.linalg.eigvalsh(G)[:, -1].max()))
        for slack in (1e-10, 1e-8, 1e-6, 1e-4):
            bound = estimate * (1 + slack)
            if bool(self._are_below(G, bound).all()):
                self.bound = up(bound)
                return
        lower = G.abs().tril()
        rows = lower.sum(2) + lower.sum(1)  # the diagonal twice
        self.bound = max(self.bound, float(rows.max()) * (1 + 8 * n * UNIT_ROUNDOFF))

    def _are_below(self, G: Tensor, bound: float) -> Tensor:
        """For which matrices bound I - G >= 0 is proved, shape (batch,)."""
        # The trace of bound I - G is at most 2 n bound.
        shift = mul_up(4.0, gamma_up(2 * self._n + 4), 2.0 * self._n, bound)
        A = -G
        A.diagonal(dim1=1, dim2=2).add_(bound - shift)
        factors, failed = torch.linalg.cholesky_ex(A)
        proved: Tensor = (failed == 0) & factors.diagonal(dim1=1, dim2=2).isfinite().all(1)
        return proved
