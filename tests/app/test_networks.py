from __future__ import annotations

import pytest
import torch
from torch import nn

from lipguard.app.classifier.models import Classifier
from lipguard.app.classifier.networks import build_network, output_shape
from lipguard.errors import ConfigError

CHAIN = [
    {"kind": "conv", "channels": 3, "kernel": 3, "stride": 2, "padding": 1},
    {"kind": "batch_norm"},
    {"kind": "elu"},
    {"kind": "avg_pool", "kernel": 2},
    {"kind": "flatten"},
    {"kind": "linear", "features": 4},
    {"kind": "tanh"},
    {"kind": "leaky_relu"},
    {"kind": "sigmoid"},
    {"kind": "relu"},
]


def test_sizes_of_inputs_are_worked_out() -> None:
    network = build_network(CHAIN, (2, 9, 7))
    assert network[0].in_channels == 2
    assert network[5].in_features == 3 * 2 * 2
    assert output_shape(network, (2, 9, 7)) == (4,)
    assert all(module.training for module in network.modules())
    assert torch.equal(network[1].running_mean, torch.zeros(3))  # building has no effect on the statistics


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([{"kind": "convolution"}], r"layers\[0\]: expected kind to be one of conv, .*'convolution'"),
        ([{"channels": 3}], r"layers\[0\]: expected kind to be one of"),
        ([{"kind": "conv", "chanels": 3, "kernel": 1}], r"conv: .*Options of conv: channels, kernel, stride, padding"),
        ([{"kind": "relu"}, {"kind": "relu", "slope": 1}], r"layers\[1\]: relu: .*Options of relu: none"),
        ([{"kind": "linear", "features": 3}], r"layers\[0\]: linear: expected an input with 1 axes \(flatten comes"),
        (
            [{"kind": "conv", "channels": 3, "kernel": 9}],
            r"layers\[0\]: Conv2d does not fit an input of shape \(1, 8",
        ),
        ([{"kind": "conv", "channels": 0, "kernel": 3}], r"layers\[0\]"),
        ([{"kind": "conv", "channels": "x", "kernel": 3}], r"layers\[0\]: conv"),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_what_cannot_be_built_is_refused(layers: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network(layers, (1, 8, 8))


def test_classifier_needs_a_vector_of_logits() -> None:
    with pytest.raises(ConfigError, match=r"vector of logits, but got shape \(1, 8, 8\)"):
        Classifier([{"kind": "relu"}], (1, 8, 8))


def test_classifier_keeps_plain_values_only() -> None:
    model = Classifier(CHAIN, [2, 9, 7], learning_rate=0.5)
    assert dict(model.hparams) == {"layers": CHAIN, "input_shape": [2, 9, 7], "learning_rate": 0.5, "penalty": 0.0}
    assert model.num_classes == 4
    assert model.example_input_array.shape == (1, 2, 9, 7)
    assert isinstance(model.configure_optimizers(), torch.optim.Adam)
    assert isinstance(model.net, nn.Sequential)
