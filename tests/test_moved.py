"""Modules under their former names."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from lipguard import moved

FORMER = sorted(name for name, successors in moved.SUCCESSORS.items() if successors)
SCRIPT = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
import lipguard
from lipguard.certificate.certificate import Certificate
from lipguard.certificate.norms import layer_norm, node_norms, product_bounds
from lipguard.network.layers import Layer, Linear
from lipguard.network.trace import trace
from lipguard.partition.plan import Block, PartitionPlan
import lipguard.certificate.domain as domain
assert Certificate is lipguard.Certificate
assert domain.Box is lipguard.Box

import dataclasses
import torch
from torch import nn
model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
own = lipguard.certify(model, (3,)).certificate
network = trace(model, (3,))
block = Block(0, len(network.nodes) - 1, "whole", ("0", "2"), variables=(4,), proof="dense")
plan = PartitionPlan(network.architecture, (block,), {})
places = [getattr(own, field.name) for field in dataclasses.fields(own)]
places[2] = plan
assert lipguard.verify(Certificate(*places), model) == own.bound
"""


@pytest.mark.parametrize("name", FORMER)
def test_former_modules_warn_and_have_what_their_successors_have(name: str) -> None:
    sys.modules.pop(name, None)
    with pytest.warns(DeprecationWarning, match="goes with version 0.3"):
        former = importlib.import_module(name)
    for successor in moved.SUCCESSORS[name]:
        module = importlib.import_module(successor)
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == successor]
        assert own or name == "lipguard.network.layers"
        for key in own:
            assert hasattr(former, key)
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nonsense'"):
        _ = former.nonsense


def test_scripts_written_against_former_modules_run() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


def test_what_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("lipguard.certificate.nonsense")
