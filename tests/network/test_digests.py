"""A digest names one function: any change of it shows, and the architecture is the part without the weights."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from helpers.forward import Forward
from helpers.networks import Sample, networks, with_weights
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lipguard.network.graph import Network
from lipguard.network.layers import Activation, Linear
from lipguard.network.trace import trace

SHAPE = (2, 6, 6)


def build(**conv: int) -> nn.Sequential:
    geometry = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1} | conv
    model = nn.Sequential(
        nn.Conv2d(2, 2, 3, **geometry),  # type: ignore[arg-type]
        nn.BatchNorm2d(2),
        nn.LeakyReLU(0.1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.LazyLinear(4),
        nn.ELU(2.0),
    )
    model(torch.zeros(1, *SHAPE))
    with_weights(model, 0)
    return model


def digests(model: nn.Module) -> tuple[str, str]:
    network = trace(model, SHAPE)
    return network.architecture, network.digest


def test_digests_are_the_same_for_a_copy_and_in_another_precision() -> None:
    model = build().float()
    assert digests(model) == digests(copy.deepcopy(model)) == digests(copy.deepcopy(model).double())


@given(networks(), st.data())
def test_one_bit_of_one_weight_changes_the_digest_and_not_the_architecture(sample: Sample, data: st.DataObject) -> None:
    parameters = [p for p in sample.model.parameters() if p.numel()]
    network = trace(sample.model, sample.input_shape)
    if not parameters:
        return
    chosen = data.draw(st.sampled_from(range(len(parameters))), label="parameter")
    entry = data.draw(st.integers(0, parameters[chosen].numel() - 1), label="entry")
    with torch.no_grad():
        value = parameters[chosen].view(-1)[entry]
        value.copy_(torch.nextafter(value, torch.tensor(torch.inf, dtype=value.dtype)))
    changed = trace(sample.model, sample.input_shape)
    norms = [m for m in sample.model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    # A bit of a weight of a batch norm may be lost in the rounding of the scale that is made of it.
    if not any(parameters[chosen] is p for norm in norms for p in norm.parameters()):
        assert changed.digest != network.digest
    assert changed.architecture == network.architecture


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.running_mean", "1.running_var", "1.weight", "5.bias"])
def test_every_weight_and_statistic_is_in_the_digest_alone(name: str) -> None:
    model = build()
    architecture, digest = digests(model)
    with torch.no_grad():
        model.state_dict()[name].view(-1)[-1] += 0.5
    changed = digests(model)
    assert changed[0] == architecture
    assert changed[1] != digest


CHANGES: dict[str, Callable[[], nn.Module]] = {
    "no padding": lambda: build(padding=0),
    "dilation": lambda: build(dilation=2, padding=2),
    "activation": lambda: _with(2, nn.ReLU()),
    "slope": lambda: _with(2, nn.LeakyReLU(0.2)),
    "elu alpha": lambda: _with(6, nn.ELU(3.0)),
    "pooling": lambda: _with(3, nn.AvgPool2d(2, divisor_override=5)),
    "groups": lambda: build(groups=2),
}


def _with(index: int, layer: nn.Module) -> nn.Module:
    model = build()
    model[index] = layer
    return model


@pytest.mark.parametrize("case", [case for case in CHANGES if case != "pooling"])
def test_changes_of_layers_change_the_architecture(case: str) -> None:
    assert digests(CHANGES[case]())[0] != digests(build())[0]


@pytest.mark.parametrize("case", CHANGES)
def test_changes_of_layers_change_the_digest(case: str) -> None:
    assert digests(CHANGES[case]())[1] != digests(build())[1]


def test_the_stride_alone_changes_both() -> None:
    one, other = (
        with_weights(nn.Sequential(nn.Conv2d(1, 1, 1, stride), nn.AdaptiveAvgPool2d(1)), 0) for stride in (1, 2)
    )
    first, second = trace(one, (1, 2, 2)), trace(other, (1, 2, 2))
    assert first.architecture != second.architecture
    assert first.digest != second.digest


@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_elu_alphas_of_equal_slope_range_are_different_functions(alpha: float) -> None:
    assert digests(_with(6, nn.ELU(alpha)))[1] != digests(_with(6, nn.ELU(0.5)))[1]


def test_branches_that_fork_in_other_places_are_other_architectures() -> None:
    layers = {"one": nn.Linear(3, 3), "other": nn.Linear(3, 3)}
    early = with_weights(Forward(lambda m, x: m.other(m.one(x)) + x, **layers), 0)
    late = with_weights(Forward(lambda m, x: (lambda y: m.other(y) + y)(m.one(x)), **layers), 0)
    assert trace(early, (3,)).architecture != trace(late, (3,)).architecture
    assert trace(early, (3,)).digest != trace(late, (3,)).digest


def test_notes_are_no_part_of_a_function() -> None:
    network = trace(build(), SHAPE)
    noted = Network(tuple(
        dataclasses.replace(node, layer=dataclasses.replace(node.layer, note="words"))
        if isinstance(node.layer, (Activation, Linear)) else node for node in network.nodes
    ))  # fmt: skip
    assert noted.notes == ("2, 5, 6: words",)
    assert not network.notes
    assert (noted.architecture, noted.digest) == (network.architecture, network.digest)
