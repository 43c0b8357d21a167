"""Every row of the table, as a module and as each of its functions and methods."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.forward import Forward
from helpers.networks import Sample, with_weights
from torch import Tensor, nn

from lipguard.network.linearised import propagate
from lipguard.network.lowering import KINDS
from lipguard.network.trace import trace

Call = Callable[[Any, Any], Any]
IMAGE, FLAT, LONG = (2, 5, 4), (6,), (3, 4)

MODULES: dict[type[nn.Module], list[tuple[tuple[int, ...], nn.Module]]] = {
    nn.Conv2d: [
        (IMAGE, nn.Conv2d(2, 4, (3, 2), (2, 1), (1, 2), (1, 2), groups=2)),
        (IMAGE, nn.Conv2d(2, 3, 3, padding="same", bias=False)),
        (IMAGE, nn.Conv2d(2, 3, (2, 4), padding="same", dilation=(3, 1))),
        (IMAGE, nn.Conv2d(2, 3, 2, padding="valid")),
        ((1, 1, 1), nn.Conv2d(1, 1, 1)),
    ],
    nn.Linear: [(FLAT, nn.Linear(6, 3)), (LONG, nn.Linear(4, 2, bias=False))],
    nn.BatchNorm1d: [(FLAT, nn.BatchNorm1d(6)), (LONG, nn.BatchNorm1d(3, eps=0.1, affine=False))],
    nn.BatchNorm2d: [(IMAGE, nn.BatchNorm2d(2))],
    nn.AvgPool2d: [
        (IMAGE, nn.AvgPool2d(2)),
        (IMAGE, nn.AvgPool2d((3, 2), (2, 1), (1, 0))),
        (IMAGE, nn.AvgPool2d((3, 2), 1, (1, 1), count_include_pad=False)),
        (IMAGE, nn.AvgPool2d(2, divisor_override=3)),
        (IMAGE, nn.AvgPool2d((1, 2), ceil_mode=True)),
    ],
    nn.AdaptiveAvgPool2d: [
        (IMAGE, nn.AdaptiveAvgPool2d(1)),
        (IMAGE, nn.AdaptiveAvgPool2d((5, 2))),
        (IMAGE, nn.AdaptiveAvgPool2d((None, 4))),
    ],
    nn.ZeroPad2d: [(IMAGE, nn.ZeroPad2d((1, 0, 2, 3))), (IMAGE, nn.ZeroPad2d((-1, 2, 0, -2)))],
    nn.Flatten: [(IMAGE, nn.Flatten()), (IMAGE, nn.Flatten(2, 3))],
    nn.Identity: [(IMAGE, nn.Identity())],
    nn.Dropout: [(IMAGE, nn.Dropout(0.3))],
    nn.Dropout2d: [(IMAGE, nn.Dropout2d(0.3))],
    nn.ReLU: [(IMAGE, nn.ReLU()), (FLAT, nn.ReLU(inplace=True))],
    nn.LeakyReLU: [(IMAGE, nn.LeakyReLU(slope)) for slope in (0.01, 1.5, -0.3)],
    nn.Tanh: [(IMAGE, nn.Tanh())],
    nn.Sigmoid: [(IMAGE, nn.Sigmoid())],
    nn.ELU: [(IMAGE, nn.ELU(alpha, inplace=alpha == 2)) for alpha in (1.0, 2.0, -0.5)],
}


def _in_place(function: Callable[..., Any]) -> Call:
    return lambda m, x: function(x.clone())


FUNCTIONS: dict[Any, list[tuple[tuple[int, ...], Call]]] = {
    F.conv2d: [
        (IMAGE, lambda m, x: F.conv2d(x, m.kernel, m.bias, (2, 1), (1, 2), (1, 2), 2)),
        (IMAGE, lambda m, x: F.conv2d(x, m.kernel, padding="same", groups=2)),
    ],
    F.linear: [(FLAT, lambda m, x: F.linear(x, m.matrix)), (FLAT, lambda m, x: F.linear(x, m.matrix, m.bias))],
    F.batch_norm: [
        (FLAT, lambda m, x: F.batch_norm(x, m.mean, m.mean.abs() + 0.1, m.mean, eps=0.01)),
        (FLAT, lambda m, x: F.batch_norm(x, m.mean, m.mean.abs(), None, m.mean, m.training, 0.1, 0.1)),
    ],
    F.avg_pool2d: [(IMAGE, lambda m, x: F.avg_pool2d(x, 3, 2, 1, False, False))],
    F.adaptive_avg_pool2d: [(IMAGE, lambda m, x: F.adaptive_avg_pool2d(x, (1, 2)))],
    F.pad: [(IMAGE, lambda m, x: F.pad(x, (1, 2))), (IMAGE, lambda m, x: F.pad(x, (0, 1, 2, 0, 1, 1), value=0.0))],
    torch.flatten: [(IMAGE, lambda m, x: torch.flatten(x, 1))],
    "flatten": [(IMAGE, lambda m, x: x.flatten(start_dim=1, end_dim=2))],
    torch.reshape: [(IMAGE, lambda m, x: torch.reshape(x, (x.shape[0], -1)))],
    "reshape": [(IMAGE, lambda m, x: x.reshape(-1, 4, 10)), (IMAGE, lambda m, x: x.reshape((len(x), 2, 20)))],
    "view": [(IMAGE, lambda m, x: x.view(x.size(0), -1)), (FLAT, lambda m, x: x.view(-1, 1, 2, 3))],
    "contiguous": [(IMAGE, lambda m, x: x.contiguous())],
    "clone": [(IMAGE, lambda m, x: x.clone())],
    F.dropout: [(IMAGE, lambda m, x: F.dropout(x, 0.3, m.training)), (IMAGE, lambda m, x: F.dropout(x, 0.0))],
    F.dropout2d: [(IMAGE, lambda m, x: F.dropout2d(x, training=m.training))],
    operator.add: [(IMAGE, lambda m, x: x + m.same(x)), (FLAT, lambda m, x: x + x)],
    operator.iadd: [(IMAGE, lambda m, x: operator.iadd(x.clone(), m.same(x)))],
    torch.add: [(IMAGE, lambda m, x: torch.add(m.same(x), x))],
    "add": [(IMAGE, lambda m, x: x.add(m.same(x)))],
    "add_": [(IMAGE, lambda m, x: m.same(x).add_(x))],
    F.relu: [(IMAGE, lambda m, x: F.relu(x)), (IMAGE, lambda m, x: F.relu(x, inplace=True))],
    F.relu_: [(IMAGE, _in_place(F.relu_))],
    torch.relu: [(IMAGE, lambda m, x: torch.relu(x))],
    torch.relu_: [(IMAGE, _in_place(torch.relu_))],
    "relu": [(IMAGE, lambda m, x: x.relu())],
    "relu_": [(IMAGE, lambda m, x: x.relu_())],
    F.leaky_relu: [(IMAGE, lambda m, x: F.leaky_relu(x)), (IMAGE, lambda m, x: F.leaky_relu(x, negative_slope=-0.4))],
    torch.tanh: [(IMAGE, lambda m, x: torch.tanh(x))],
    F.tanh: [(IMAGE, lambda m, x: F.tanh(x))],
    "tanh": [(IMAGE, lambda m, x: x.tanh())],
    "tanh_": [(IMAGE, lambda m, x: x.tanh_())],
    torch.sigmoid: [(IMAGE, lambda m, x: torch.sigmoid(x))],
    F.sigmoid: [(IMAGE, lambda m, x: F.sigmoid(x))],
    "sigmoid": [(IMAGE, lambda m, x: x.sigmoid())],
    "sigmoid_": [(IMAGE, lambda m, x: x.sigmoid_())],
    F.elu: [(IMAGE, lambda m, x: F.elu(x, 1.7)), (IMAGE, lambda m, x: F.elu(x, alpha=-0.5, inplace=True))],
}


def _functional(call: Call) -> nn.Module:
    parameters = {"kernel": (4, 1, 3, 2), "matrix": (4, 6), "bias": (4,), "mean": (6,)}
    return Forward(
        call, same=nn.Conv2d(2, 2, 1), **{name: nn.Parameter(torch.zeros(shape)) for name, shape in parameters.items()}
    )


def _samples() -> list[Any]:
    cases = [(cls.__name__, shape, module) for cls, rows in MODULES.items() for shape, module in rows]
    for function, rows in FUNCTIONS.items():
        name = function if isinstance(function, str) else f"{function.__name__}()"
        cases += [(name, shape, _functional(call)) for shape, call in rows]
    return [
        pytest.param(Sample(with_weights(model, i), shape), id=name) for i, (name, shape, model) in enumerate(cases)
    ]


def test_every_row_of_the_table_is_tested_here() -> None:
    assert set(MODULES) == {kind.module for kind in KINDS if kind.module is not None}
    assert set(FUNCTIONS) == {function for kind in KINDS for function in kind.functions}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("sample", _samples())
def test_operation_is_read_as_the_model_computes_it(sample: Sample) -> None:
    network = trace(sample.model, sample.input_shape)
    x, y = sample.inputs(7, seed=1), sample.inputs(7, seed=2)
    with torch.no_grad():
        expected, other = sample.model(x.clone()), sample.model(y.clone())
    assert network.output_shape == tuple(expected.shape[1:])
    torch.testing.assert_close(network.forward(x), expected, rtol=1e-12, atol=1e-12)

    if not network.activations:
        differences = propagate(network, x - y, _no_activation)
        torch.testing.assert_close(differences, expected - other, rtol=1e-12, atol=1e-12)


def _no_activation(i: int, a: Tensor) -> Tensor:
    raise AssertionError(f"node {i} is no activation")
