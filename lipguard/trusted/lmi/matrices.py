"""The matrices of a network with its activations freed, sparse."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from lipguard.trusted.layers import Activation, Layer, Matrix, Shape
from lipguard.trusted.network.graph import Network

_MOST_TERMS = 3e8  # of matrices that are multiplied entry by entry, which takes some twenty times as long
_MOST_ENTRIES = 5e7  # of two that are written out


def _own_matrix(layer: Layer, input_shape: Shape, shape: Shape) -> Matrix:
    return layer.matrix(input_shape, shape)


def freed_matrices(
    network: Network,
    matrix: Callable[[Layer, Shape, Shape], Matrix] = _own_matrix,
    size: Callable[[Shape], int] = math.prod,
    check: Callable[[Matrix], None] = lambda rows: None,
) -> tuple[Matrix, Matrix]:
    """(K, Y): the pre-activations `a = K z` and the output `y = Y z` of the network with its activations freed.

    `z = (x, b_1, .., b_L)`, activations in order of execution; shapes (neurons, n) and (outputs, n).

    Args:
        network: any graph of layers.
        matrix: of a layer.
        size: number of rows that a value of some shape has in it.
        check: of the rows of every activation, as they come; whatever it raises is the end.
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
            check(pre_activations[-1])
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
    products = float(np.bincount(W.indices, minlength=W.shape[1]) @ np.diff(value.indptr))
    if products > _MOST_TERMS and W.shape[1] * (W.shape[0] + total) < _MOST_ENTRIES:
        return sp.csr_array(W.toarray() @ value.toarray())  # sums of the same products, in another order
    return W @ value
