"""The monitor without a Trainer: its arguments, what it refuses, and how it reads batches and weights."""

from __future__ import annotations

import doctest
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from lipguard import DCPConfig, LipschitzMonitor
from lipguard.callbacks import lipschitz_monitor, observed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_epochs": 0}, "every_n_epochs to be at least 1, but got 0"),
        ({"every_n_epochs": True}, "every_n_epochs"),
        ({"every_n_epochs": 1.5}, "every_n_epochs"),
        ({"config": {"solver": "scs"}}, "config to be a DCPConfig"),
        ({"input_shape": ()}, "without the batch axis"),
        ({"input_shape": 28}, "without the batch axis"),
        ({"input_shape": (1, 0, 28)}, "without the batch axis"),
        ({"input_shape": (1, 2.0)}, "without the batch axis"),
        ({"input_shape": "abc"}, "without the batch axis"),
        ({"log_prefix": ""}, "log_prefix"),
        ({"log_prefix": "/"}, "log_prefix"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        LipschitzMonitor(**arguments)


def test_arguments() -> None:
    config = DCPConfig(seed=3)
    monitor = LipschitzMonitor(every_n_epochs=2, config=config, input_shape=[1, 4, 4], log_prefix="lip/")
    assert (monitor.every_n_epochs, monitor.config, monitor.input_shape) == (2, config, (1, 4, 4))
    assert monitor.state_key == "LipschitzMonitor{'log_prefix': 'lip'}"


class FSDPStrategy:
    """Known by its name, which both Lightning namespaces share."""


def test_sharded_weights_are_refused() -> None:
    trainer = SimpleNamespace(strategy=FSDPStrategy(), callbacks=[], checkpoint_callbacks=[])
    with pytest.raises(MisconfigurationException, match="FSDPStrategy shards them"):
        LipschitzMonitor().setup(trainer, None, "fit")
    LipschitzMonitor().setup(trainer, None, "test")


@pytest.mark.parametrize(
    ("batch", "shape"),
    [
        (torch.zeros(2, 4), (2, 4)),
        ((torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.long)), (2, 3, 4)),
        ([torch.zeros(2, 1), "name"], (2, 1)),
        ({"label": torch.zeros(2), "image": torch.zeros(2, 5)}, (2, 5)),
        (((torch.zeros(2, dtype=torch.long), {"x": torch.zeros(2, 6)}), 1), (2, 6)),
        ((torch.zeros(2, 4, dtype=torch.long), torch.zeros(2)), None),
        (torch.zeros(0, 4), None),
        ("text", None),
        (None, None),
    ],
)
def test_first_input(batch: object, shape: tuple[int, ...] | None) -> None:
    found = observed.first_input(batch)
    assert (None if found is None else tuple(found.shape)) == shape


def test_a_fingerprint_sees_every_change_of_the_weights() -> None:
    net = nn.Sequential(nn.Linear(2, 2).bfloat16(), nn.BatchNorm1d(2))
    seen = {observed.fingerprint(net)}
    net[0].weight.data[0, 0] += 1  # unseen by version counters
    seen.add(observed.fingerprint(net))
    net[1].num_batches_tracked += 1
    seen.add(observed.fingerprint(net))
    assert len(seen) == 3
    assert observed.fingerprint(net) in seen


def test_weights_without_bytes_have_no_fingerprint() -> None:
    net = nn.Linear(2, 2)
    net.register_buffer("mask", torch.eye(2).to_sparse())
    assert observed.fingerprint(net) == ""


def test_the_docstring_runs() -> None:
    result = doctest.testmod(lipschitz_monitor)
    assert result.attempted > 0
    assert result.failed == 0
