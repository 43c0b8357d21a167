"""Certified spectral norms of affine layers on their true input size, and the product bound of a network.

Every number here is an upper bound. Power iteration converges from below, and the circular norm at the image's own size
ignores that zero padding is not periodic: neither is one.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Sequence
from functools import singledispatch

import numpy as np
import scipy.sparse.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipguard.certificate.cholesky import largest_eigenvalue, largest_eigenvalue_bound, slacks
from lipguard.certificate.hints import Hints
from lipguard.certificate.order import Elimination, NoOrderError
from lipguard.certificate.sparse import is_gram_at_most, is_norm_at_most
from lipguard.network.graph import Network
from lipguard.network.layers import (
    Activation,
    Add,
    Conv2d,
    Input,
    Layer,
    Linear,
    Mosaic,
    Pad,
    Pick,
    Reshape,
    Scale,
    Shape,
    no_row,
    picks,
)
from lipguard.network.matrices import Matrix, layer_matrix
from lipguard.rounding import UNIT_ROUNDOFF, add_up, gamma_up, ldexp_up, mul_up, sqrt_up, up

Array = NDArray[np.float64]
_DENSE_SIDE = 2048  # the largest dense Gram matrix to factor
_SPARSE_SIDE = 400  # from which on a sparse factorisation is faster
_NARROW = 3  # times as long on one side as on the other: W W' is then so much smaller that its fill does not matter
# Of the eigenvector that a norm is estimated with; the norm itself is off by about its square. What that may leave:
_RESIDUAL, _NORM_SLACK = 1e-5, 1e-6
_known_windows: weakref.WeakKeyDictionary[Network, dict[int, dict[int, float]]] = weakref.WeakKeyDictionary()
_ROWS = 256  # that are looked at together
_PROBE = 512  # rows of the product that shows how fast this machine is at the moment
_FREQUENCY_WORK = 2e11  # the most floating-point operations to spend on the frequencies of one convolution


class LateNormError(Exception):
    """The norm of a layer would not be proved before its deadline.

    Args:
        bound: a looser one of that norm, which was.
    """

    def __init__(self, bound: float = math.inf) -> None:
        super().__init__("no time for the norm of a layer")
        self.bound = bound


def node_norms(network: Network, hints: Hints, deadline: float = math.inf, *, exact: bool = False) -> list[float]:
    """For every node, a certified Lipschitz constant of its own layer.

    Args:
        network: the network.
        hints: who knows orders of elimination.
        deadline: of `time.monotonic()`. What is not proved by then has a looser bound, certified as well, that takes
            next to no time. Small layers go first, as many of them take less than one large one.
        exact: whether a looser bound will not do.

    Raises:
        LateNormError: one is not proved by the deadline, and `exact` asks for it.
    """
    shapes = [network.nodes[node.inputs[0]].shape if node.inputs else node.shape for node in network.nodes]
    keys = [(id(node.layer), shape) for node, shape in zip(network.nodes, shapes, strict=True)]
    layers = dict(zip(keys, network.nodes, strict=True))  # one used twice has one norm
    known: dict[tuple[int, Shape], float] = {}
    for key, node in sorted(layers.items(), key=lambda item: _work(item[1].layer, item[0][1])):
        try:
            known[key] = layer_norm(node.layer, key[1], hints, deadline)
        except LateNormError as late:
            if exact:
                raise
            known[key] = min(crude_norm(node.layer, hints), late.bound)
    return [known[key] for key in keys]


def _work(layer: Layer, input_shape: Shape) -> float:
    """About how long a layer's norm takes, relative to others."""
    if isinstance(layer, Linear):
        m, n = sorted(layer.weight.shape)
        return float(m) ** 2 * n
    if isinstance(layer, Conv2d):
        return math.prod(input_shape[1:]) * float(min(layer.weight.shape[:2])) ** 2 * max(layer.weight.shape[:2])
    return 0.0


def crude_norm(layer: Layer, hints: Hints) -> float:
    """Certified upper bound of the spectral norm of a layer's linear part, in one look at its weights.

    Of a matrix sqrt(|W|_1 |W|_inf), of a convolution the same: an output entry reads every weight of its channel once
    at most, and an input entry is read with every weight of its own once at most. Others have no better bound anyway.
    """
    if isinstance(layer, Linear):
        return _crude_norm_by_rows(layer.weight.numpy(), layer.weight_ulps)
    if not isinstance(layer, Conv2d):
        return layer_norm(layer, (), hints)
    norm = 0.0
    for weight in layer.weight.numpy().reshape(layer.groups, -1, *layer.weight.shape[1:]):
        sizes = np.abs(weight)
        sums = mul_up(float(sizes.sum(axis=(1, 2, 3)).max()), float(sizes.sum(axis=(0, 2, 3)).max()))
        norm = max(norm, mul_up(sqrt_up(sums), up(1 + gamma_up(sizes.size + layer.weight_ulps))))
    return norm


def _check(deadline: float, seconds: float = 0.0) -> None:
    if time.monotonic() + seconds > deadline:
        raise LateNormError


def product_bounds(network: Network, norms: Sequence[float]) -> list[float]:
    """For every node, a certified Lipschitz constant of the map from the network's input to it.

    Norms are multiplied along the graph, and added where branches meet (triangle inequality). What is the larger of two
    values, entry by entry, is no longer than both together.

    Args:
        network: the network.
        norms: its `node_norms`.
    """
    bounds: list[float] = []
    for i, (node, norm) in enumerate(zip(network.nodes, norms, strict=True)):
        bound = mul_up(norm, add_up(*(bounds[j] for j in node.inputs))) if node.inputs else 1.0
        if network.compared(i) is not None:
            squares = [mul_up(most, bounds[j], bounds[j]) for j, most in _windows(network, i).items()]
            bound = min(bound, sqrt_up(add_up(*squares)))
        bounds.append(bound)
    return bounds


def _windows(network: Network, i: int) -> dict[int, float]:
    """`_counted`, once for a network: norms change, windows do not."""
    known = _known_windows.setdefault(network, {})
    if i not in known:
        known[i] = _counted(network, i)
    return known[i]


def _counted(network: Network, i: int) -> dict[int, float]:
    """Nodes of whose entries node i holds the largest, and in how many of its entries one of them takes part, at most.

    What takes part twice in one window counts once: no difference is larger than the largest of the differences.
    """
    found: dict[int, list[NDArray[np.int64]]] = {}  # for every entry of node i what takes part, from 1; 0 for a zero
    waiting = [i]
    while waiting:
        j = waiting.pop()
        compared = network.compared(j)
        if compared is not None:
            waiting.extend(compared)
            continue
        layer, inputs = network.nodes[j].layer, network.nodes[j].inputs
        source = inputs[0] if picks(layer) else j
        numbers = torch.arange(1, network.nodes[source].size + 1, dtype=torch.float64)
        numbers = numbers.reshape(1, *network.nodes[source].shape)
        read = layer.linear(numbers) if source != j else numbers
        found.setdefault(source, []).append(read.flatten().numpy().astype(np.int64))
    most = {}
    for source, columns in found.items():
        size = network.nodes[source].size + 1
        pairs = np.unique(np.concatenate([column + size * np.arange(len(column)) for column in columns]))
        counts = np.bincount(pairs % size, minlength=2)
        most[source] = float(counts[1:].max())
    return most


@singledispatch
def layer_norm(layer: Layer, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    """Certified upper bound of the spectral norm of a layer's linear part, for inputs of `input_shape`.

    Of a layer with several inputs, for each of them alone: `product_bounds` adds them up.

    Raises:
        NotImplementedError: the kind of layer has no row here.
        LateNormError: it is not proved before the deadline, of `time.monotonic()`.
    """
    raise no_row(layer, "norms")


@layer_norm.register
def _(layer: Input, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return 1.0  # as it is


@layer_norm.register
def _(layer: Pad, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return 1.0  # every entry once, or not at all, beside zeros


@layer_norm.register
def _(layer: Reshape, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return 1.0  # every entry once, in the same order


@layer_norm.register
def _(layer: Add, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return 1.0  # each input enters as it is


@layer_norm.register
def _(layer: Mosaic, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return 1.0  # every entry of each input once, in a place of its own


@layer_norm.register
def _(layer: Activation, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return layer.lipschitz


@layer_norm.register
def _(layer: Pick, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return sqrt_up(float(layer.most))


@layer_norm.register
def _(layer: Scale, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return mul_up(float(layer.scale.abs().max()), up(1 + gamma_up(layer.weight_ulps)))


@layer_norm.register
def _(layer: Linear, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    return matrix_norm(layer.weight.numpy(), layer.weight_ulps, deadline)


@layer_norm.register
def _(layer: Conv2d, input_shape: Shape, hints: Hints, deadline: float = math.inf) -> float:
    norm, late = 0.0, False  # groups act on channels of their own: the largest counts
    for weight in _distinct(layer.weight.chunk(layer.groups)):
        group = Conv2d(weight, None, layer.stride, layer.padding, layer.dilation, 1, layer.weight_ulps)
        try:
            norm = max(norm, _convolution_norm(group, (weight.shape[1], *input_shape[1:]), hints, deadline))
        except LateNormError as error:
            norm, late = max(norm, error.bound), True
    if late:
        raise LateNormError(norm)
    return norm


@np.errstate(over="ignore", invalid="ignore")
def matrix_norm(W: Array, weight_ulps: int, deadline: float = math.inf) -> float:
    """Upper bound of the spectral norm of every matrix within gamma(weight_ulps) |W| of `W`, shape (m, n).

    Raises:
        LateNormError: it is predicted to take longer than to the deadline, of `time.monotonic()`.
    """
    if W.shape[0] > W.shape[1]:
        W = W.T
    if deadline < math.inf:
        _check(deadline, _gram_seconds(*W.shape))
    size = float(np.abs(W).max(initial=0.0))
    if size == 0:
        return 0.0
    exponent = math.frexp(size)[1]
    W = np.ldexp(W, -exponent)  # exact but for underflow of entries that are 2^-1022 of the largest
    crude = _crude_norm(W, weight_ulps)
    if len(W) > 4 * _DENSE_SIDE:
        return ldexp_up(crude, exponent)
    G = W @ W.T
    lengths = np.linalg.norm(W, axis=1)
    # |W| |W|^T <= lengths lengths^T by Cauchy and Schwarz
    error = 1.01 * gamma_up(W.shape[1] + 2 * weight_ulps + 4) * np.outer(lengths, lengths) + 2.0**-1000
    return ldexp_up(min(crude, sqrt_up(largest_eigenvalue_bound(G, error))), exponent)


def _gram_seconds(m: int, n: int) -> float:
    """What the Gram matrix of m rows and the proof of its eigenvalue take, by what a small product takes now."""
    operations = m * m * float(n) + 2 * m**3 + 200 * m * m
    if operations < 1e9:
        return 0.0
    probe = np.ones((_PROBE, _PROBE))
    began = time.monotonic()
    probe @ probe
    return (time.monotonic() - began) * operations / (2.0 * _PROBE**3)


def _crude_norm(W: Array | Matrix, weight_ulps: int) -> float:
    """sqrt(|W|_1 |W|_inf)."""
    A = abs(W)
    sums = mul_up(float(A.sum(axis=0).max()), float(A.sum(axis=1).max()))
    return mul_up(sqrt_up(sums), up(1 + gamma_up(sum(W.shape) + weight_ulps)))


def _crude_norm_by_rows(W: Array, weight_ulps: int) -> float:
    """The same without a copy of a large matrix."""
    columns, largest = np.zeros(W.shape[1]), 0.0
    for start in range(0, len(W), _ROWS):
        sizes = np.abs(W[start : start + _ROWS])
        columns += sizes.sum(axis=0)
        largest = max(largest, float(sizes.sum(axis=1).max()))
    sums = mul_up(float(columns.max(initial=0.0)), largest)
    return mul_up(sqrt_up(sums), up(1 + gamma_up(sum(W.shape) + weight_ulps)))


def _distinct(weights: Sequence[Tensor]) -> list[Tensor]:
    return list({weight.numpy().tobytes(): weight for weight in weights}.values())


def _convolution_norm(layer: Conv2d, input_shape: Shape, hints: Hints, deadline: float) -> float:
    """One group, by the tightest route whose cost is small."""
    if not layer.weight.any():
        return 0.0
    _check(deadline)
    example = layer.linear(torch.zeros(1, *input_shape, dtype=torch.float64))
    n_in, n_out, output = math.prod(input_shape), example.numel(), example.shape[2:]
    if min(n_in, n_out) <= _DENSE_SIDE:
        W = layer_matrix(layer, input_shape, (len(layer.weight), *output))
        if min(n_in, n_out) > _SPARSE_SIDE:
            gram = _NARROW * min(n_in, n_out) <= max(n_in, n_out)
            try:
                elimination = hints.order_of_norm(layer, input_shape, (len(layer.weight), *output), gram, deadline)
            except NoOrderError as error:
                raise LateNormError from error
            return _sparse_norm(W, layer.weight_ulps, elimination, gram, deadline)
        return matrix_norm(W.toarray(), layer.weight_ulps, deadline)
    patches = _patch_norm(layer, deadline)
    torus = [_torus(layer, axis, input_shape[1 + axis], output[axis]) for axis in (0, 1)]
    columns = layer.weight.shape[1] * math.prod(layer.stride)
    if math.prod(torus) * 8.0 * min(layer.weight.shape[0], columns) ** 2 * columns > _FREQUENCY_WORK:
        return patches
    try:
        return min(patches, _frequency_norm(layer, torus, deadline))
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
    crude = _crude_norm(W, weight_ulps)
    wide, narrow = (W, W.T.tocsr()) if W.shape[0] <= W.shape[1] else (W.T.tocsr(), W)

    def times(v: Array) -> Array:
        _check(deadline)
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
        _check(deadline)
        proved = (
            is_gram_at_most(G, square, error, elimination, deadline)
            if gram
            else is_norm_at_most(W, bound, error, elimination, deadline)
        )
        if proved:
            return ldexp_up(bound, exponent)
    return ldexp_up(crude, exponent)


def _patch_norm(layer: Conv2d, deadline: float = math.inf) -> float:
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


@np.errstate(over="ignore", invalid="ignore")
def _frequency_norm(layer: Conv2d, torus: Sequence[int], deadline: float = math.inf) -> float:
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
        _check(deadline, 0.5 * (time.monotonic() - began) * (len(rows) - done) / done if done else 0.0)
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
