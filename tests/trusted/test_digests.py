"""A digest names one function: any change of it shows, and the architecture is the part without the weights."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.forward import Forward
from helpers.networks import Sample, networks, with_weights
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lipguard import Box
from lipguard.certifying.hints import HINTS
from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.layers import Activation, Input, Layer, Linear
from lipguard.trusted.network.digest import described, numbers_of
from lipguard.trusted.network.graph import Network, Node
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.reading.trace import trace
from lipguard.trusted.regions.restriction import restricted

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


# --- activations: their functions and parameters ---


def of_layer(layer: Layer) -> tuple[str, str]:
    network = Network((Node("x", Input(), (), (3,)), Node("a", layer, (0,), (3,))))
    return network.architecture, network.digest


def parameters_of(make: Callable[..., Activation]) -> list[str]:
    return list(inspect.signature(make).parameters)


ACTIVATIONS = [
    value
    for name, value in vars(layers).items()
    if inspect.isfunction(value) and str(inspect.signature(value).return_annotation) == "Activation"
]


USUAL: dict[Callable[..., Activation], dict[str, float]] = {  # of parameters without a default
    layers.clamp: {"low": -1.0, "high": 2.0},
    layers.power: {"exponent": 2},
    layers.real_power: {"exponent": 2.5},
    layers.smooth_length: {"eps": 0.5},
    layers.normalised: {"eps": 0.5},
}


def test_the_list_of_activations_is_not_empty() -> None:
    assert {layers.relu, layers.softplus, layers.hardtanh, layers.clamp} <= set(ACTIVATIONS)


@pytest.mark.parametrize("make", ACTIVATIONS, ids=lambda make: make.__name__)
def test_every_parameter_of_every_activation_is_in_both(make: Callable[..., Activation]) -> None:
    usual = USUAL.get(make, {})
    plain = of_layer(make(**usual))
    assert plain == of_layer(make(**usual)) == of_layer(copy.deepcopy(make(**usual)))
    assert plain == of_layer(pickle.loads(pickle.dumps(make(**usual))))
    for name in parameters_of(make):
        default = usual.get(name, inspect.signature(make).parameters[name].default)
        other = "tanh" if isinstance(default, str) else math.nextafter(default, math.inf)
        other = default + 1 if isinstance(default, int) else other
        changed = of_layer(make(**(usual | {name: other})))
        assert changed[0] != plain[0], name
        assert changed[1] != plain[1], name


def test_activations_of_one_slope_range_are_told_apart() -> None:
    found = [of_layer(make(**USUAL.get(make, {}))) for make in ACTIVATIONS if make is not layers.clamp]
    assert len(set(found)) == len(found)


class Bent(nn.Module):
    """A layer of a user's own."""

    def __init__(self, slope: float = 0.5, weight: float = 1.0) -> None:
        super().__init__()
        self.slope = slope
        self.tables: dict[str, Any] = {"kinks": [1.0, 2.0]}
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.slope * x).clamp(max=1) * self.weight.clamp(0, 1)


def own(module: object) -> tuple[str, str]:
    return of_layer(Activation("Bent", 0.0, 1.0, module))  # type: ignore[arg-type]


def test_layers_of_ones_own_with_all_that_they_hold() -> None:
    plain = own(Bent())
    assert own(Bent()) == plain == own(copy.deepcopy(Bent()))
    assert own(Bent(slope=0.25))[0] != plain[0]
    assert own(Bent(slope=0.25))[1] != plain[1]
    assert own(Bent(weight=0.5)) == (plain[0], own(Bent(weight=0.5))[1])
    assert own(Bent(weight=0.5))[1] != plain[1]
    module = Bent()
    module.tables["kinks"].append(3.0)
    assert own(module)[1] != plain[1]
    module = Bent()
    module.seen += 1  # type: ignore[operator]
    assert own(module)[0] == plain[0]
    assert own(module)[1] != plain[1]
    module = Bent()
    module.register_forward_hook(_doubles)
    assert own(module)[1] != plain[1]
    module = Bent()
    module.itself = [module]  # type: ignore[assignment]
    assert own(module) == own(copy.deepcopy(module)) != plain


def _doubles(module: nn.Module, args: object, output: Tensor) -> Tensor:
    return 2 * output


def _shifted(x: Tensor, by: Tensor) -> Tensor:
    return torch.relu(x - by)


def _made(k: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.relu(k * x)


def _class_made(k: float) -> nn.Module:
    class Local(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(k * x)

    return Local()


@pytest.mark.parametrize("make", [_made, _class_made, np.float64, complex, Fraction, lambda k: {k}, lambda k: {"a": k}])
def test_what_has_no_name_counts_with_what_it_holds(make: Callable[[float], object]) -> None:
    assert own(make(0.5)) == own(make(0.5))
    assert own(make(0.5))[1] != own(make(0.25))[1]


def test_functions_count_by_name_and_tensors_in_partials_as_weights() -> None:
    assert own(torch.relu) != own(torch.tanh)
    one, other = (own(partial(_shifted, by=torch.full((3,), k))) for k in (0.5, 0.25))
    assert one[0] == other[0]
    assert one[1] != other[1]
    network = trace(build(), SHAPE)
    within = [restricted(network, Box(0.0, high), node_norms(network, HINTS)) for high in (0.5, 0.25)]
    assert within[0].digest != within[1].digest


@pytest.mark.parametrize("count", [0, 1, 3])
def test_strides_are_no_part_of_a_tensor(count: int) -> None:
    """Of one number or none, torch takes any stride for contiguous."""
    plain = torch.arange(2.0 * count, dtype=torch.float64)[::2].clone()
    strided = torch.arange(2.0 * max(count, 1), dtype=torch.float64).as_strided((count,), (2,))
    assert strided.stride() == (2,)
    assert described(plain, True) == described(strided, True)
    assert bytes(numbers_of(strided)) == plain.numpy().tobytes()


def test_a_weight_of_one_number_and_an_odd_stride_has_a_digest() -> None:
    from lipguard.callbacks.observed import fingerprint  # loads Lightning, which the processes below do without

    layer = nn.Conv2d(1, 1, 1)
    layer.weight = nn.Parameter(torch.ones(4).as_strided((1, 1, 1, 1), (2, 2, 2, 2)))
    network = trace(nn.Sequential(layer, nn.ReLU()), (1, 2, 2))
    assert network.digest == trace(nn.Sequential(layer, nn.ReLU()), (1, 2, 2)).digest
    assert fingerprint(layer) != ""


def test_what_cannot_be_written_down_is_refused() -> None:
    module = Bent()
    module.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(InvalidNetworkError, match=r"a: it holds something that cannot be written down.*lock"):
        own(module)


def test_a_digest_is_the_same_in_every_process() -> None:
    program = (
        "from trusted.test_digests import Bent, build, digests, own, _made, _class_made, SHAPE\n"
        "from lipguard import Box\n"
        "from lipguard.trusted.regions.restriction import restricted\n"
        "from lipguard.trusted.norms.layers import node_norms\n"
        "from lipguard.certifying.hints import HINTS\n"
        "from lipguard.trusted.reading.trace import trace\n"
        "network = trace(build(), SHAPE)\n"
        "module = Bent()\n"
        "module.names = {'a', 'b', 'c', 'd'}\n"
        "print(*digests(build()), *own(module), *own(_made(0.5)), *own(_class_made(0.5)),\n"
        "      restricted(network, Box(0.0, 0.5), node_norms(network, HINTS)).digest)\n"
    )
    found = set()
    for seed in ("1", "2"):
        path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1
    assert digests(build())[1] in found.pop()


def test_notes_are_no_part_of_a_function() -> None:
    network = trace(build(), SHAPE)
    noted = Network(tuple(
        dataclasses.replace(node, layer=dataclasses.replace(node.layer, note="words"))
        if isinstance(node.layer, (Activation, Linear)) else node for node in network.nodes
    ))  # fmt: skip
    assert noted.notes == ("2, 5, 6: words",)
    assert not network.notes
    assert (noted.architecture, noted.digest) == (network.architecture, network.digest)
