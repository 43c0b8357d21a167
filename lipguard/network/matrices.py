"""The linear parts of layers as sparse matrices, by index arithmetic."""

from __future__ import annotations

import functools
import operator
from functools import singledispatch
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lipguard.network.graph import Network
from lipguard.network.layers import Activation, Add, Conv2d, Input, Layer, Linear, Pad, Reshape, Scale, Shape

Indices = NDArray[np.int64]
Matrix = Any  # scipy.sparse.csr_array, which scipy does not type


@singledispatch
def layer_matrix(layer: Layer, input_shape: Shape, shape: Shape) -> Matrix:
    """The matrix by which a layer acts on one of its inputs, shape (entries out, entries in), sparse by rows.

    Every entry is a weight, a one, or (where a kernel meets an entry twice) nothing else: no rounding takes place.
    """
    raise NotImplementedError(f"{type(layer).__name__} has no matrix.")


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
def _(layer: Linear, input_shape: Shape, shape: Shape) -> Matrix:
    weight = sp.csr_array(layer.weight.cpu().numpy())
    repeats = int(np.prod(input_shape[:-1]))
    return weight if repeats == 1 else sp.kron(sp.eye_array(repeats), weight, format="csr")


@layer_matrix.register
def _(layer: Conv2d, input_shape: Shape, shape: Shape) -> Matrix:
    weight = layer.weight.cpu().numpy()
    before = (layer.padding[2], layer.padding[0])
    reads = [
        [_reads(tap, layer.stride[axis], layer.dilation[axis], before[axis], input_shape[1 + axis], shape[1 + axis])
         for tap in range(weight.shape[2 + axis])]
        for axis in (0, 1)
    ]  # fmt: skip
    pixels_in, pixels_out = input_shape[1] * input_shape[2], shape[1] * shape[2]
    into, out = weight.shape[1], weight.shape[0] // layer.groups
    group = np.arange(layer.groups)
    rows, columns, values = [], [], []
    for i, (to_row, from_row) in enumerate(reads[0]):
        for j, (to_column, from_column) in enumerate(reads[1]):
            to = (to_row[:, None] * shape[2] + to_column).ravel()
            source = (from_row[:, None] * input_shape[2] + from_column).ravel()
            tap = weight[:, :, i, j].reshape(layer.groups, out, into)
            # axes: group, output channel, input channel, pixel
            r = ((group[:, None] * out + np.arange(out))[:, :, None] * pixels_out)[..., None] + to
            c = ((group[:, None] * into + np.arange(into))[:, None, :] * pixels_in)[..., None] + source
            full = np.broadcast_shapes(r.shape, c.shape)
            rows.append(np.broadcast_to(r, full).ravel())
            columns.append(np.broadcast_to(c, full).ravel())
            values.append(np.broadcast_to(tap[..., None], full).ravel())
    return _assembled(np.concatenate(values), np.concatenate(rows), np.concatenate(columns), input_shape, shape)


def _reads(tap: int, stride: int, dilation: int, before: int, size: int, output: int) -> tuple[Indices, Indices]:
    """The output positions at which a tap of the kernel stays inside the input, and what it reads there."""
    source = np.arange(output) * stride + tap * dilation - before
    inside = np.flatnonzero((source >= 0) & (source < size))
    return inside, source[inside]


def _assembled(values: NDArray[np.float64], rows: Indices, columns: Indices, from_: Shape, to: Shape) -> Matrix:
    return sp.csr_array((values, (rows, columns)), shape=(int(np.prod(to)), int(np.prod(from_))))


def freed_matrices(network: Network) -> tuple[Matrix, Matrix]:
    """(K, Y): the pre-activations `a = K z` and the output `y = Y z` of the network with its activations freed.

    `z = (x, b_1, .., b_L)`, activations in order of execution; shapes (neurons, n) and (outputs, n).
    """
    sizes = {i: network.nodes[i].size for i in network.activations}
    n_x = network.nodes[0].size
    total = n_x + sum(sizes.values())
    offset = n_x
    pre_activations = [sp.csr_array((0, total))]

    def block(size: int, first: int) -> Matrix:
        return sp.eye_array(size, total, k=first, format="csr")

    values: dict[int, Matrix] = {0: block(n_x, 0)}
    for i, node in enumerate(network.nodes):
        if i == 0:
            continue
        if isinstance(node.layer, Activation):
            pre_activations.append(values[node.inputs[0]])
            values[i] = block(sizes[i], offset)
            offset += sizes[i]
        else:
            terms = [layer_matrix(node.layer, network.nodes[j].shape, node.shape) @ values[j] for j in node.inputs]
            values[i] = functools.reduce(operator.add, terms)
        for j in set(node.inputs):
            if network.consumers[j][-1] == i:
                del values[j]
    return sp.vstack(pre_activations, format="csr"), values[len(network.nodes) - 1]
