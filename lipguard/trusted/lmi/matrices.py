"""The linear parts of layers as sparse matrices, by index arithmetic."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lipguard.trusted.layers import (
    Activation,
    Add,
    Conv2d,
    Input,
    Layer,
    Linear,
    Pad,
    Pick,
    Reshape,
    Scale,
    Shape,
    no_row,
)
from lipguard.trusted.network.graph import Network

Indices = NDArray[np.int64]
Matrix = Any  # scipy.sparse.csr_array, which scipy does not type


@singledispatch
def layer_matrix(layer: Layer, input_shape: Shape, shape: Shape) -> Matrix:
    """The matrix by which a layer acts on one of its inputs, shape (entries out, entries in), sparse by rows.

    Every entry is a weight, a one, or (where a kernel meets an entry twice) nothing else: no rounding takes place.
    """
    raise no_row(layer, "matrices")


@layer_matrix.register(Input)
@layer_matrix.register(Reshape)
@layer_matrix.register(Add)
def _(layer: Layer, input_shape: Shape, shape: Shape) -> Matrix:
    return sp.eye_array(int(np.prod(shape)), format="csr")


@layer_matrix.register
def _(layer: Scale, input_shape: Shape, shape: Shape) -> Matrix:
    return sp.diags_array(np.broadcast_to(layer.scale.cpu().numpy(), (1, *shape)).ravel(), format="csr")


@layer_matrix.register
def _(layer: Pad, input_shape: Shape, shape: Shape) -> Matrix:
    index = torch.arange(1, int(np.prod(input_shape)) + 1, dtype=torch.float64).reshape(1, *input_shape)
    source = F.pad(index, layer.padding).ravel().numpy().astype(np.int64)  # 0 where it is padding
    rows = np.flatnonzero(source)
    return _assembled(np.ones(len(rows)), rows, source[rows] - 1, input_shape, shape)


@layer_matrix.register
def _(layer: Pick, input_shape: Shape, shape: Shape) -> Matrix:
    source = layer.index.cpu().numpy().ravel()
    rows = np.flatnonzero(source >= 0)
    return _assembled(np.ones(len(rows)), rows, source[rows], input_shape, shape)


@layer_matrix.register
def _(layer: Linear, input_shape: Shape, shape: Shape) -> Matrix:
    weight = sp.csr_array(layer.weight.cpu().numpy())
    repeats = int(np.prod(input_shape[:-1]))
    return weight if repeats == 1 else sp.kron(sp.eye_array(repeats), weight, format="csr")


@layer_matrix.register
def _(layer: Conv2d, input_shape: Shape, shape: Shape) -> Matrix:
    weight = layer.weight.cpu().numpy()
    into, out = weight.shape[1], weight.shape[0] // layer.groups
    before = (layer.padding[2], layer.padding[0])
    # By axis: what every output position reads with every tap, shape (positions, taps); negative where it is padding.
    reads = [
        _reads(weight.shape[2 + axis], layer.stride[axis], layer.dilation[axis], before[axis], input_shape[1 + axis],
               shape[1 + axis])
        for axis in (0, 1)
    ]  # fmt: skip
    rows, columns = reads[0][:, None, :, None], reads[1][None, :, None, :]
    inside = (rows >= 0) & (columns >= 0)  # (output rows, output columns, taps, taps)
    pixel = (rows * input_shape[2] + columns).astype(np.int32)
    counts = np.tile(into * inside.sum(axis=(2, 3)).ravel(), weight.shape[0])
    pointers = np.concatenate([[0], np.cumsum(counts)])
    # Row by row: axes (output channel, output pixels, input channel, taps), as sparse rows have them.
    full = (weight.shape[0], *inside.shape[:2], into, *inside.shape[2:])
    channel = np.arange(layer.groups)[:, None, None] * into + np.arange(into)[None, None, :]
    channel = np.broadcast_to(channel, (layer.groups, out, into)).reshape(weight.shape[0], 1, 1, into, 1, 1)
    start = (channel * (input_shape[1] * input_shape[2])).astype(np.int32)
    read = start + pixel[None, :, :, None]
    value = np.broadcast_to(weight[:, None, None], full)
    if inside.all():
        indices, data = read.ravel(), value.ravel()
    else:
        kept = np.broadcast_to(inside[None, :, :, None], full)
        indices, data = read[kept], value[kept]
    return sp.csr_array((data, indices, pointers.astype(np.int32)), shape=(math.prod(shape), math.prod(input_shape)))


def _reads(taps: int, stride: int, dilation: int, before: int, size: int, output: int) -> Indices:
    source = np.arange(output)[:, None] * stride + np.arange(taps) * dilation - before
    return np.where((source >= 0) & (source < size), source, -1)


def _assembled(values: NDArray[np.float64], rows: Indices, columns: Indices, from_: Shape, to: Shape) -> Matrix:
    return sp.csr_array((values, (rows, columns)), shape=(int(np.prod(to)), int(np.prod(from_))))


def freed_matrices(
    network: Network,
    matrix: Callable[[Layer, Shape, Shape], Matrix] = layer_matrix,
    size: Callable[[Shape], int] = math.prod,
) -> tuple[Matrix, Matrix]:
    """(K, Y): the pre-activations `a = K z` and the output `y = Y z` of the network with its activations freed.

    `z = (x, b_1, .., b_L)`, activations in order of execution; shapes (neurons, n) and (outputs, n).

    Args:
        network: any graph of layers.
        matrix: of a layer.
        size: number of rows that a value of some shape has in it.
    """
    total = sum(size(network.nodes[i].shape) for i in (0, *network.activations))
    pre_activations = [sp.csr_array((0, total))]
    values: dict[int, int | Matrix] = {0: 0}  # or the first variable, of a value that consists of variables
    offset = size(network.input_shape)
    for i, node in enumerate(network.nodes):
        if i == 0:
            continue
        if isinstance(node.layer, Activation):
            pre_activations.append(_written(values[node.inputs[0]], size(node.shape), total))
            values[i] = offset
            offset += size(node.shape)
        else:
            terms = [
                _times(matrix(node.layer, network.nodes[j].shape, node.shape), values[j], total) for j in node.inputs
            ]
            values[i] = functools.reduce(operator.add, terms)
        for j in set(node.inputs):
            if network.consumers[j][-1] == i:
                del values[j]
    Y = _written(values[len(network.nodes) - 1], size(network.output_shape), total)
    return sp.vstack(pre_activations, format="csr"), Y


def _written(value: int | Matrix, size: int, total: int) -> Matrix:
    return sp.eye_array(size, total, k=value, format="csr") if isinstance(value, int) else value


def _times(W: Matrix, value: int | Matrix, total: int) -> Matrix:
    if isinstance(value, int):
        return sp.csr_array((W.data, W.indices + value, W.indptr), shape=(W.shape[0], total))
    return W @ value
