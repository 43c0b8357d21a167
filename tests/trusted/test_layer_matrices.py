"""Matrices by index arithmetic against layers that torch runs on unit vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.forward import Forward
from helpers.freed import jacobians
from helpers.layers import convolutions, layers
from helpers.networks import Residual, Sample, Twice, networks, with_weights
from hypothesis import given
from numpy.typing import NDArray
from torch import Tensor, nn

from lipguard.trusted.layers import Add, Conv2d, Input, Layer, Linear, Pad, Reshape, Scale, Shape, relu
from lipguard.trusted.lmi.freed import propagate
from lipguard.trusted.lmi.matrices import freed_matrices
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.trace import trace

Array = NDArray[np.float64]


def probed(layer: Layer, shape: Shape) -> tuple[Array, Shape]:
    """The layer's matrix, a column for every unit vector, and its output shape."""
    units = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    columns = layer.linear(units)
    return columns.flatten(1).T.numpy(), tuple(columns.shape[1:])


def assert_is_the_matrix(layer: Layer, shape: Shape) -> None:
    expected, output = probed(layer, shape)
    found = layer.matrix(shape, output)
    assert found.shape == expected.shape
    assert found.dtype == np.float64
    assert np.array_equal(found.toarray(), expected)  # entries are weights: nothing is rounded


@given(convolutions())
def test_convolutions_of_every_geometry(case: tuple[Conv2d, Shape]) -> None:
    assert_is_the_matrix(*case)


@given(layers())
def test_layers_of_every_other_kind(case: tuple[Layer, Shape]) -> None:
    assert_is_the_matrix(*case)


WEIGHT = torch.arange(1.0, 37.0, dtype=torch.float64)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Conv2d(WEIGHT[:4].reshape(2, 2, 1, 1)), (2, 1, 1)),
        (Conv2d(WEIGHT[:18].reshape(1, 2, 3, 3), padding=(1, 1, 1, 1)), (2, 1, 1)),  # one tap of nine is inside
        (Conv2d(WEIGHT[:9].reshape(1, 1, 3, 3), padding=(5, 4, 3, 3)), (1, 1, 2)),  # outputs that read nothing
        (Conv2d(WEIGHT[:4].reshape(1, 1, 2, 2), padding=(-1, 0, 0, -2), dilation=(2, 1)), (1, 5, 4)),
        (Conv2d(WEIGHT[:9].reshape(1, 1, 3, 3), stride=(3, 2), padding=(2, 0, 0, 1), dilation=(1, 3)), (1, 4, 9)),
        (Conv2d(WEIGHT[:24].reshape(6, 1, 2, 2), groups=3), (3, 2, 3)),
        (Conv2d(WEIGHT[:12].reshape(6, 1, 1, 2), groups=6, stride=(1, 2)), (6, 1, 4)),
        (Conv2d(WEIGHT[:2].reshape(1, 1, 1, 2), stride=(1, 5)), (1, 1, 4)),  # a stride past the end
        (Linear(WEIGHT[:6].reshape(2, 3)), (3,)),
        (Linear(WEIGHT[:6].reshape(2, 3)), (4, 3)),
        (Linear(WEIGHT[:6].reshape(2, 3)), (2, 2, 3)),
        (Scale(WEIGHT[:1].reshape(())), (2, 3)),
        (Scale(WEIGHT[:2].reshape(2, 1, 1)), (2, 3, 4)),
        (Scale(WEIGHT[:12].reshape(1, 3, 4)), (2, 3, 4)),
        (Scale(WEIGHT[:24].reshape(1, 2, 3, 4)), (2, 3, 4)),
        (Pad((1, 0, 2, 3)), (2, 3, 4)),
        (Pad((-1, -2, 0, 1)), (2, 3, 4)),
        (Pad((2, -3)), (4,)),
        (Reshape((12,)), (3, 4)),
        (Input(), (2, 3)),
    ],
    ids=str,
)
def test_chosen_layers(layer: Layer, shape: Shape) -> None:
    if isinstance(layer, Input):
        assert np.array_equal(layer.matrix(shape, shape).toarray(), np.eye(6))
    else:
        assert_is_the_matrix(layer, shape)


def test_every_branch_of_a_sum_is_the_identity() -> None:
    for inputs in (2, 3):
        values = torch.randn(inputs, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        matrix = Add().matrix((2, 3), (2, 3))
        total = sum(matrix @ value.numpy().ravel() for value in values)
        np.testing.assert_allclose(total, Add().linear(*values).numpy().ravel(), rtol=1e-15)


def test_only_what_is_inside_is_stored() -> None:
    layer = Conv2d(WEIGHT[:9].reshape(1, 1, 3, 3), padding=(1, 1, 1, 1))
    matrix = layer.matrix((1, 100, 100), (1, 100, 100))
    assert matrix.nnz == (3 * 98 + 2 * 2) ** 2


def test_an_activation_has_no_matrix() -> None:
    with pytest.raises(NotImplementedError, match="relu has no linear part"):
        relu().matrix((3,), (3,))


def probed_freed(network: Network) -> tuple[Array, Array]:
    """K and Y, a column for every unit vector in the place of input and activations."""
    sizes = [network.nodes[i].size for i in (0, *network.activations)]
    units = torch.eye(sum(sizes), dtype=torch.float64)
    variables = dict(zip((0, *network.activations), torch.split(units, sizes, dim=1), strict=True))
    pre = [torch.zeros(len(units), 0, dtype=torch.float64)]

    def free(i: int, a: Tensor) -> Tensor:
        pre.append(a.flatten(1))
        return variables[i].reshape(a.shape)

    output = propagate(network, variables[0].reshape(-1, *network.input_shape), free)
    return torch.cat(pre, dim=1).T.numpy(), output.flatten(1).T.numpy()


@given(networks())
def test_the_freed_matrices_are_the_freed_network_on_unit_vectors(sample: Sample) -> None:
    network = trace(sample.model, sample.input_shape)
    for found, expected in zip(freed_matrices(network), probed_freed(network), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found.toarray(), expected, rtol=1e-12, atol=1e-12)


GRAPHS = {
    "a node and itself": Forward(lambda self, x: x + x),
    "an activation and itself": Forward(
        lambda self, x: (lambda b: b + b)(torch.relu(self.first(x))), first=nn.Linear(3, 2)
    ),
    "a sum of sums": Forward(lambda self, x: (x + self.first(x)) + (x + self.first(x)).relu(), first=nn.Linear(3, 3)),
    "a module twice": Twice(nn.Sequential(nn.Linear(3, 3), nn.Tanh())),
    "an output that is an activation": nn.Sequential(nn.Linear(3, 2), nn.ReLU()),
    "an output that is the input": nn.Identity(),
    "a skip around two activations": Residual(
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.Sigmoid()), nn.Linear(3, 3)
    ),
    "a module on two branches": Forward(lambda self, x: self.first(x) + self.first(x).tanh(), first=nn.Linear(3, 2)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_freed_matrices_of_odd_graphs(name: str) -> None:
    network = trace(with_weights(GRAPHS[name], 0), (3,))
    for found, expected in zip(freed_matrices(network), probed_freed(network), strict=True):
        np.testing.assert_allclose(found.toarray(), expected, rtol=1e-13, atol=1e-14)
    if name == "a node and itself":
        assert np.array_equal(freed_matrices(network)[1].toarray(), 2 * np.eye(3))


def test_an_activation_that_is_read_through_several_layers_and_the_input_beside_it() -> None:
    model = nn.Sequential(
        Residual(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.AvgPool2d(3, 1, 1)), nn.BatchNorm2d(2)),
        nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip
    sample = Sample(with_weights(model, 0), (2, 3, 4))
    for found, expected in zip(freed_matrices(trace(sample.model, (2, 3, 4))), jacobians(sample), strict=True):
        np.testing.assert_allclose(found.toarray(), expected, rtol=1e-12, atol=1e-13)
