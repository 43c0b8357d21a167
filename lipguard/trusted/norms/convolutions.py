"""Certified spectral norms of convolutions on their true input size, with zero padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

from lipguard.trusted.layers import (
    Conv2d,
    Matrix,
    Shape,
)
from lipguard.trusted.norms.frequencies import frequency_norm
from lipguard.trusted.norms.matrices import DENSE_SIDE, Array, LateNormError, check, crude_matrix_norm, matrix_norm
from lipguard.trusted.proofs.cholesky import largest_eigenvalue, slacks
from lipguard.trusted.proofs.hints import Hints
from lipguard.trusted.proofs.order import Elimination, NoOrderError
from lipguard.trusted.proofs.sparse import is_gram_at_most, is_norm_at_most
from lipguard.trusted.rounding import gamma_up, ldexp_up, mul_up, sqrt_up

_SPARSE_SIDE = 400  # from which on a sparse factorisation is faster
_NARROW = 3  # times as long on one side as on the other: W W' is then so much smaller that its fill does not matter
# Of the eigenvector that a norm is estimated with; the norm itself is off by about its square. What that may leave:
_RESIDUAL, _NORM_SLACK = 1e-5, 1e-6
_FREQUENCY_WORK = 2e11  # the most floating-point operations to spend on the frequencies of one convolution


def distinct(weights: Sequence[Tensor]) -> list[Tensor]:
    """Each of some weights once."""
    return list({weight.numpy().tobytes(): weight for weight in weights}.values())


def convolution_norm(layer: Conv2d, input_shape: Shape, hints: Hints, deadline: float) -> float:
    """One group, by the tightest route whose cost is small."""
    if not layer.weight.any():
        return 0.0
    check(deadline)
    example = layer.linear(torch.zeros(1, *input_shape, dtype=torch.float64))
    n_in, n_out, output = math.prod(input_shape), example.numel(), example.shape[2:]
    if min(n_in, n_out) <= DENSE_SIDE:
        W = layer.matrix(input_shape, (len(layer.weight), *output))
        if min(n_in, n_out) > _SPARSE_SIDE:
            gram = _NARROW * min(n_in, n_out) <= max(n_in, n_out)
            try:
                elimination = hints.order_of_norm(layer, input_shape, (len(layer.weight), *output), gram, deadline)
            except NoOrderError as error:
                raise LateNormError from error
            return _sparse_norm(W, layer.weight_ulps, elimination, gram, deadline)
        return matrix_norm(W.toarray(), layer.weight_ulps, deadline)
    patches = patch_norm(layer, deadline)
    torus = [_torus(layer, axis, input_shape[1 + axis], output[axis]) for axis in (0, 1)]
    columns = layer.weight.shape[1] * math.prod(layer.stride)
    if math.prod(torus) * 8.0 * min(layer.weight.shape[0], columns) ** 2 * columns > _FREQUENCY_WORK:
        return patches
    try:
        return min(patches, frequency_norm(layer, torus, deadline))
    except LateNormError as error:
        raise LateNormError(patches) from error


@np.errstate(over="ignore", invalid="ignore")
def _sparse_norm(W: Matrix, weight_ulps: int, elimination: Elimination, gram: bool, deadline: float) -> float:
    """`matrix_norm` of a sparse matrix: the bound s is proved by [[s I, W'], [W, s I]] >= 0, which has its entries.

    With `gram`, by s^2 I - W W' >= 0, or W' W: more entries on fewer rows.
    """
    size = float(np.abs(W.data).max(initial=0.0))
    if size == 0:
        return 0.0
    exponent = math.frexp(size)[1]
    W.data = np.ldexp(W.data, -exponent)
    crude = crude_matrix_norm(W, weight_ulps)
    wide, narrow = (W, W.T.tocsr()) if W.shape[0] <= W.shape[1] else (W.T.tocsr(), W)

    def times(v: Array) -> Array:
        check(deadline)
        image: Array = wide @ (narrow @ v)
        return image

    operator = scipy.sparse.linalg.LinearOperator((wide.shape[0],) * 2, times, dtype=np.float64)
    estimate = math.sqrt(largest_eigenvalue(operator, _RESIDUAL))
    if gram:
        G = wide @ narrow
        # | |W| |W|' |_2 <= crude^2, and an entry collects no more than a rounding per column; the rest is underflow.
        error = mul_up(1.01, gamma_up(wide.shape[1] + 2 * weight_ulps + 4), crude, crude) + 2.0**-1000
    else:
        error = mul_up(gamma_up(weight_ulps), crude) + 2.0**-1000
    for slack in slacks(sum(W.shape), _NORM_SLACK):
        bound = estimate * (1 + slack)
        if bound >= crude:
            break
        square = math.nextafter(bound * bound, 0.0)
        check(deadline)
        proved = (
            is_gram_at_most(G, square, error, elimination, deadline)
            if gram
            else is_norm_at_most(W, bound, error, elimination, deadline)
        )
        if proved:
            return ldexp_up(bound, exponent)
    return ldexp_up(crude, exponent)


def patch_norm(layer: Conv2d, deadline: float = math.inf) -> float:
    """|conv| <= |kernel as a matrix (out, in * taps)| * sqrt(patches that read one input entry)."""
    covers = 1
    for k, s, d in zip(layer.weight.shape[2:], layer.stride, layer.dilation, strict=True):
        covers *= -(-k // (s // math.gcd(s, d)))
    kernel = matrix_norm(layer.weight.flatten(1).numpy(), layer.weight_ulps, deadline)
    return mul_up(kernel, sqrt_up(float(covers)))


def _torus(layer: Conv2d, axis: int, size: int, output: int) -> int:
    """Outputs of a periodic convolution on which the zero-padded one embeds: no read may wrap onto an input entry."""
    before = layer.padding[2 - 2 * axis]
    stride, reach = layer.stride[axis], layer.dilation[axis] * (layer.weight.shape[2 + axis] - 1)
    furthest = stride * (output - 1) + reach - before
    return max(-(-max(size + before, furthest + 1, size) // stride), output)
