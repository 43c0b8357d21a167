"""Separators against their definition, and the subnetworks between them."""

from __future__ import annotations

from itertools import pairwise

import torch
from helpers.forward import Forward
from helpers.networks import Residual, Sample, networks, with_weights
from hypothesis import given
from torch import Tensor, nn

from lipguard.trusted.layers import Activation
from lipguard.trusted.network.cutting import subnetwork
from lipguard.trusted.network.graph import Network, reaches_without_activation
from lipguard.trusted.reading.trace import trace


def reaches(network: Network, without: int) -> bool:
    """Whether the output can still be reached when one node is taken away."""
    if without == 0:
        return False
    reached = {0}
    for i, node in enumerate(network.nodes):
        if i != without and any(j in reached for j in node.inputs):
            reached.add(i)
    return len(network.nodes) - 1 in reached


def nested_residual() -> nn.Module:
    inner = Residual(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 3)), nn.Identity())
    return nn.Sequential(nn.Linear(3, 3), Residual(nn.Sequential(inner, nn.Tanh()), nn.Linear(3, 3)), nn.ReLU())


@given(networks())
def test_separators_are_the_nodes_that_every_path_passes(sample: Sample) -> None:
    network = trace(sample.model, sample.input_shape)
    expected = [i for i in range(len(network.nodes)) if not reaches(network, i) or i == len(network.nodes) - 1]
    assert list(network.separators) == expected


def test_separators_of_a_chain_are_all_nodes() -> None:
    network = trace(with_weights(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), 0), (3,))
    assert network.separators == (0, 1, 2, 3)


def test_separators_of_nested_branches_are_their_ends() -> None:
    network = trace(with_weights(nested_residual(), 0), (3,))
    paths = [network.nodes[i].path for i in network.separators]
    assert paths == ["input", "0", "1 (function add)", "2"]


def test_separators_of_a_skip_from_the_input_to_the_output() -> None:
    network = trace(with_weights(Residual(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Identity()), 0), (3,))
    assert network.separators == (0, len(network.nodes) - 1)


def test_a_node_read_twice_by_one_reader_is_a_separator() -> None:
    network = trace(with_weights(Forward(lambda m, x: (lambda y: y + y)(m.a(x)), a=nn.Linear(2, 2)), 0), (2,))
    assert network.separators == (0, 1, 2)
    assert network.consumers == ((1,), (2,), ())


@given(networks())
def test_subnetworks_between_separators_compose_to_the_whole(sample: Sample) -> None:
    network = trace(sample.model, sample.input_shape)
    x = value = sample.inputs(3)
    for start, stop in pairwise(network.separators):
        part = subnetwork(network, start, stop)
        assert part.input_shape == network.nodes[start].shape
        assert part.output_shape == network.nodes[stop].shape
        assert part.separators == (0, len(part.nodes) - 1)
        value = part.forward(value)
    assert torch.equal(value, network.forward(x))
    ends = network.separators[0], network.separators[-1]
    assert torch.equal(subnetwork(network, *ends).forward(x), network.forward(x))


@given(networks())
def test_magnitudes_bound_the_linear_part(sample: Sample) -> None:
    network = trace(sample.model, sample.input_shape)
    x = sample.inputs(3)

    def run(net: Network, v: Tensor) -> Tensor:
        return net.run(
            v, lambda i, a: a[0] if isinstance(net.nodes[i].layer, Activation) else net.nodes[i].layer.linear(*a)
        )

    magnitude = run(network.absolute(), x.abs())
    assert (run(network, x).abs() <= magnitude * (1 + 1e-12)).all()
    assert (run(network.absolute(), -x.abs()) <= 0).all()


@given(networks())
def test_values_are_dropped_only_after_their_last_reader(sample: Sample) -> None:
    network = trace(sample.model, sample.input_shape)
    order: list[int] = []

    def step(i: int, inputs: tuple[Tensor, ...]) -> Tensor:
        order.append(i)
        assert [tuple(v.shape[1:]) for v in inputs] == [network.nodes[j].shape for j in network.nodes[i].inputs]
        return network.nodes[i].layer.forward(*inputs)

    network.run(sample.inputs(2), step)
    assert order == list(range(1, len(network.nodes)))


@given(networks())
def test_nodes_that_read_through_affine_layers_only(sample: Sample) -> None:
    network = trace(sample.model, sample.input_shape)
    for source in (0, *network.activations[:1]):
        affine = {source}  # reached, and passed on
        expected = set()
        for i, node in enumerate(network.nodes):
            if any(j in affine for j in node.inputs):
                expected.add(i)
                if not isinstance(node.layer, Activation):
                    affine.add(i)
        assert reaches_without_activation(network, [source]) == expected
