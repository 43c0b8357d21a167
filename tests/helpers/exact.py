"""The freed network's matrices in exact arithmetic: every float is the fraction that it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from helpers.freed import record, slopes
from helpers.networks import Residual, Sample, Shape, Twice

Matrix = NDArray[Any]  # of fractions
Array = NDArray[np.float64]


def matrices(sample: Sample) -> tuple[Matrix, Matrix]:
    """K and Y of a model made of the modules that `helpers.networks` draws."""
    n = math.prod(sample.input_shape)
    total = n + len(record(sample, sample.inputs(1)[0]).pre)
    walk = _Walk(_identity(total), n)
    Y, _ = walk.through(sample.model, walk.variables[:n], sample.input_shape)
    return np.concatenate([_zeros(0, total), *walk.pre]), Y


def lmi(sample: Sample, t: Array, rho: float) -> Matrix:
    """A(rho, t), for multipliers and rho that are the fractions that their floats are."""
    K, Y = matrices(sample)
    n = K.shape[1] - len(K)
    found = record(sample, sample.inputs(1)[0])
    T, alpha, beta = (exact(values)[:, None] for values in (t, found.alpha, found.beta))
    b = _identity(K.shape[1])[n:]
    A = (b - alpha * K).T @ (T * (b - beta * K)) if len(K) else _zeros(n, n)
    A = A + A.T - Y.T @ Y
    A[np.arange(n), np.arange(n)] += Fraction(rho)
    return A


def exact(array: NDArray[Any]) -> Matrix:
    """Every float as the fraction that it is."""
    return np.array([Fraction(float(v)) for v in array.ravel()], dtype=object).reshape(array.shape)


def is_positive_semidefinite(A: NDArray[Any]) -> bool:
    """LDL' in rational arithmetic, of floats or fractions: the oracle."""
    M = [[Fraction(x) for x in row] for row in A.tolist()]
    n = len(M)
    for k in range(n):
        if M[k][k] < 0 or (M[k][k] == 0 and any(M[i][k] != 0 for i in range(k + 1, n))):
            return False
        if M[k][k] == 0:
            continue
        for i in range(k + 1, n):
            factor = M[i][k] / M[k][k]
            for j in range(k + 1, n):
                M[i][j] -= factor * M[k][j]
    return True


class _Walk:
    """Carries values, as linear functions of z, through modules; meets activations in order of execution."""

    def __init__(self, variables: Matrix, taken: int) -> None:
        self.variables, self.taken = variables, taken
        self.pre: list[Matrix] = []

    def through(self, module: nn.Module, H: Matrix, shape: Shape) -> tuple[Matrix, Shape]:
        if slopes(module) is not None:
            self.pre.append(H)
            self.taken += len(H)
            return self.variables[self.taken - len(H) : self.taken], shape
        match module:
            case nn.Sequential():
                for inner in module:
                    H, shape = self.through(inner, H, shape)
                return H, shape
            case Residual():
                body, after = self.through(module.body, H, shape)
                return body + self.through(module.skip, H, shape)[0], after
            case Twice():
                return self.through(module.inner, *self.through(module.inner, H, shape))
            case nn.Flatten():
                return H, (len(H),)
            case nn.Identity():
                return H, shape
            case nn.Linear():
                return _exact(module.weight) @ H, (module.out_features,)
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                return np.repeat(_scale(module), len(H) // shape[0])[:, None] * H, shape
            case nn.ZeroPad2d():
                left, right, top, bottom = module.padding
                after = (shape[0], shape[1] + top + bottom, shape[2] + left + right)
                taps = (((c, i, j), (c, i - top, j - left), Fraction(1)) for c, i, j in _grid(after))
            case nn.Conv2d():
                taps, after = _convolution(module, shape)
            case nn.AvgPool2d():
                taps, after = _pooling(module, shape)
            case _:
                raise NotImplementedError(type(module).__name__)
        result = _zeros(math.prod(after), H.shape[1])
        for output, source, weight in taps:
            if all(0 <= i < n for i, n in zip(source, shape, strict=True)):
                result[_flat(output, after)] += weight * H[_flat(source, shape)]
        return result, after


Tap = tuple[tuple[int, ...], tuple[int, ...], Fraction]  # output position, input position, weight


def _convolution(conv: nn.Conv2d, shape: Shape) -> tuple[Iterator[Tap], Shape]:
    weight, (s, t), (d, e), (k, m) = _exact(conv.weight), conv.stride, conv.dilation, conv.kernel_size
    reach = (d * (k - 1), e * (m - 1))
    total = reach if conv.padding == "same" else tuple(2 * int(p) for p in conv.padding)
    top, left = total[0] // 2, total[1] // 2
    after = (
        conv.out_channels,
        (shape[1] + total[0] - reach[0] - 1) // s + 1,
        (shape[2] + total[1] - reach[1] - 1) // t + 1,
    )
    group, per = conv.out_channels // conv.groups, weight.shape[1]
    return (
        ((o, i, j), (o // group * per + c, i * s - top + d * a, j * t - left + e * b), weight[o, c, a, b])
        for (o, i, j), c, a, b in product(_grid(after), range(per), range(k), range(m))
    ), after


def _pooling(pool: nn.AvgPool2d, shape: Shape) -> tuple[Iterator[Tap], Shape]:
    (k, m), (s, t), (top, left) = pool.kernel_size, pool.stride, pool.padding  # type: ignore[misc]
    after = (shape[0], (shape[1] + 2 * top - k) // s + 1, (shape[2] + 2 * left - m) // t + 1)

    def count(i: int, size: int, step: int, before: int, kernel: int) -> int:
        return sum(0 <= i * step - before + a < size for a in range(kernel))

    def taps() -> Iterator[Tap]:
        for c, i, j in _grid(after):
            n = k * m if pool.count_include_pad else count(i, shape[1], s, top, k) * count(j, shape[2], t, left, m)
            for a, b in product(range(k), range(m)):
                yield (c, i, j), (c, i * s - top + a, j * t - left + b), Fraction(1, n)

    return taps(), after


def _scale(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Matrix:
    """Gain over the root of the variance, to 60 digits."""
    assert norm.running_var is not None
    with localcontext() as context:
        context.prec = 60
        return np.array(
            [
                Fraction(Decimal(gain) / (Decimal(variance) + Decimal(norm.eps)).sqrt())
                for gain, variance in zip(norm.weight.tolist(), norm.running_var.tolist(), strict=True)
            ]
        )


def _exact(tensor: Tensor) -> Matrix:
    return np.array([Fraction(v) for v in tensor.detach().flatten().tolist()]).reshape(tuple(tensor.shape))


def _zeros(rows: int, columns: int) -> Matrix:
    return np.full((rows, columns), Fraction(0), dtype=object)


def _identity(n: int) -> Matrix:
    matrix = _zeros(n, n)
    matrix[np.diag_indices(n)] = Fraction(1)
    return matrix


def _grid(shape: Shape) -> list[tuple[int, ...]]:
    return list(product(*map(range, shape)))


def _flat(position: tuple[int, ...], shape: Shape) -> int:
    return int(np.ravel_multi_index(position, shape))
