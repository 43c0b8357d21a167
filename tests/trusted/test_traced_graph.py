"""The graph is the order of execution, one node for each use of a layer, whatever the forward looks like."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from helpers.forward import Forward
from helpers.networks import Residual, Sample, Twice, networks, with_weights
from hypothesis import given
from torch import Tensor, nn

from lipguard.trusted.layers import Conv2d, Linear
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.trace import trace


def assert_equal(network: Network, model: nn.Module, seed: int = 0) -> None:
    sample = Sample(model, network.input_shape)
    x = sample.inputs(5, seed)
    with torch.no_grad():
        expected = model(x.clone())
    scale = float(expected.abs().max().clamp(min=1))
    torch.testing.assert_close(network.forward(x) / scale, expected / scale, rtol=0, atol=1e-12)


@given(networks())
def test_random_networks_are_read_as_they_compute(sample: Sample) -> None:
    network = trace(sample.model, sample.input_shape)
    assert_equal(network, sample.model, seed=1)
    assert all(max(node.inputs, default=-1) < i for i, node in enumerate(network.nodes))
    assert all(network.consumers[i] for i in range(len(network.nodes) - 1))  # every node reaches the output


def test_nodes_follow_execution_not_registration() -> None:
    model = Forward(lambda m, x: m.first(torch.relu(m.second(x))), first=nn.Linear(3, 2), second=nn.Linear(4, 3))
    network = trace(with_weights(model, 0), (4,))
    assert [node.path for node in network.nodes] == ["input", "second", "forward (function relu)", "first"]
    assert [node.shape for node in network.nodes] == [(4,), (3,), (3,), (2,)]


def test_a_module_used_twice_is_two_layers() -> None:
    model = with_weights(Twice(nn.Sequential(nn.Linear(3, 3), nn.ReLU())), 0)
    network = trace(model, (3,))
    assert [node.path for node in network.nodes] == ["input", "inner.0", "inner.1", "inner.0", "inner.1"]
    assert [node.inputs for node in network.nodes] == [(), (0,), (1,), (2,), (3,)]
    assert_equal(network, model)


def test_tied_weights_are_read_in_both_layers() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    model = with_weights(nn.Sequential(first, nn.Tanh(), second), 0)
    network = trace(model, (3,))
    weights = [node.layer.weight for node in network.nodes if isinstance(node.layer, Linear)]
    assert len(weights) == 2
    assert torch.equal(weights[0], weights[1])
    assert_equal(network, model)


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.LeakyReLU(0.1), nn.Linear(5, 3))
        self.example_input_array = torch.zeros(1, 2, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_lightning_modules_are_networks() -> None:
    model = with_weights(Classifier(), 0)
    network = trace(model, (2, 2, 2))
    assert network.output_shape == (3,)
    assert [node.path for node in network.nodes][1:] == ["net.0", "net.1", "net.2", "net.3"]
    assert_equal(network, model)


def test_the_model_may_be_a_single_layer_or_nothing() -> None:
    assert [node.path for node in trace(nn.Linear(3, 2), (3,)).nodes] == ["input", "the model itself"]
    network = trace(nn.Identity(), (3, 2))
    assert len(network.nodes) == 1
    assert torch.equal(network.forward(torch.ones(1, 3, 2)), torch.ones(1, 3, 2))


def _by_shape(m: Any, x: Any) -> Any:
    if x.shape[-1] > 3 and x.dim() == 4 and x.size(1) == 2 and x.numel() > len(x) and x.dtype == torch.float64:
        x = F.avg_pool2d(x, 2)
    for _ in range(x.shape[1]):
        x = F.relu(m.conv(x))
    return m.head(x.view(x.size(0), x.size(1) * x.shape[2] * x.shape[3]))


@pytest.mark.parametrize("size", [3, 4])
def test_control_flow_on_shapes_is_followed(size: int) -> None:
    model = Forward(_by_shape, conv=nn.Conv2d(2, 2, 1), head=nn.Linear(18 if size == 3 else 8, 2))
    network = trace(with_weights(model, 0), (2, size, size))
    assert sum(node.path == "conv" for node in network.nodes) == 2
    assert sum(node.path == "forward (function avg_pool2d)" for node in network.nodes) == (size > 3)
    assert_equal(network, model)


def test_branches_on_the_mode_follow_eval_mode() -> None:
    model = Forward(lambda m, x: m.dropout(m.train_only(x)) if m.training else m.layer(x),
                    dropout=nn.Dropout(), train_only=nn.Softmax(-1), layer=nn.Linear(3, 2))  # fmt: skip
    network = trace(with_weights(model, 0), (3,))
    assert [node.path for node in network.nodes] == ["input", "layer"]


def test_layers_that_the_output_does_not_read_are_left_out() -> None:
    def forward(m: Any, x: Any) -> Any:
        m.auxiliary(x)
        return m.layer(x)

    model = Forward(forward, auxiliary=nn.Linear(3, 5), layer=nn.Linear(3, 2))
    assert [node.path for node in trace(with_weights(model, 0), (3,)).nodes] == ["input", "layer"]


def _in_place_residual(m: Any, x: Any) -> Any:
    y = m.relu(m.layer(x))
    y += x
    return m.relu(y)


def test_results_of_operations_in_place_are_read() -> None:
    model = Forward(_in_place_residual, relu=nn.ReLU(inplace=True), layer=nn.Linear(3, 3))
    network = trace(with_weights(model, 0), (3,))
    assert [node.inputs for node in network.nodes] == [(), (0,), (1,), (2, 0), (3,)]
    assert_equal(network, model)


class Doubled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        return y + y


class DoubledInside(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = F.conv2d(input, weight, bias)
        return y + y


class Named(nn.Conv2d):
    """Only another name."""


@pytest.mark.parametrize("cls", [Doubled, DoubledInside])
def test_a_subclass_with_its_own_forward_is_followed_inside(cls: type[nn.Conv2d]) -> None:
    model = with_weights(nn.Sequential(cls(1, 2, 2)), 0)
    network = trace(model, (1, 3, 3))
    assert len(network.nodes) == 3  # the convolution, and the sum
    assert_equal(network, model)


def test_a_subclass_that_inherits_forward_is_the_layer() -> None:
    model = with_weights(nn.Sequential(Named(1, 2, 2)), 0)
    assert isinstance(trace(model, (1, 3, 3)).nodes[1].layer, Conv2d)


def test_parametrised_weights_are_read_as_they_are_used() -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    model = with_weights(nn.Sequential(layer), 0)
    assert_equal(trace(model, (3,)), model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_weights_are_read_exactly(dtype: torch.dtype) -> None:
    model = with_weights(Residual(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4)), nn.Identity()), 0).to(
        dtype
    )
    network = trace(model, (4,))
    layers = [node.layer for node in network.nodes if isinstance(node.layer, Linear)]
    for layer, own in zip(layers, (model.body[0], model.body[2]), strict=True):
        assert layer.weight.dtype == torch.float64
        assert torch.equal(layer.weight.to(dtype), own.weight)
        assert torch.equal(layer.weight, own.weight.double())
    assert_equal(network, model.double())
