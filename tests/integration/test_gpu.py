"""What runs on a GPU: the same bounds as on the CPU, proofs that the CPU accepts, training there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.networks import Residual, with_weights
from tiny_training import LIGHTNING_WARNINGS, Tiny, fit, trainer
from torch import nn

import lipguard
from lipguard import DCPConfig, LipschitzBound, LipschitzMonitor
from lipguard.proposing.feasible.lanczos import smallest_eigenvectors
from lipguard.proposing.power.options import PowerOptions
from lipguard.proposing.power.run import propose
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.reading.trace import trace

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")


def images() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1))
    return with_weights(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, padding=1), nn.ReLU(), Residual(body, nn.Identity()), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(96, 10),
        ),
        0,
    )  # fmt: skip


@pytest.mark.parametrize("proof", ["dense", "sparse", "randomised"])
def test_bounds_are_those_of_the_cpu_and_verified_there(proof: str) -> None:
    model, config = images(), DCPConfig(proof=proof)
    here = lipguard.certify(model, (3, 16, 16), config)
    there = lipguard.certify(model.cuda(), (3, 16, 16), config)
    assert there.proof == here.proof == proof
    assert here.lower_bound <= there.bound <= there.product_bound
    assert there.bound == pytest.approx(here.bound, rel=2e-3)
    assert there.lower_bound <= there.bound
    assert lipguard.verify(there.certificate, model.cpu()) == there.bound
    assert lipguard.verify(here.certificate, model.cuda()) == here.bound


def test_iteration_and_eigenvectors_are_those_of_the_cpu() -> None:
    network = trace(images(), (3, 16, 16))
    found = [propose(network, PowerOptions(device=device)) for device in ("cpu", "cuda")]
    assert found[1].value == pytest.approx(found[0].value, rel=1e-4)
    t = found[0].multipliers
    assert t is not None
    for dtype, error in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        forms = [ScaledForm(network, t, found[0].value ** 2, device, dtype=dtype) for device in ("cpu", "cuda")]
        here, there = (smallest_eigenvectors(form, 80)[0] for form in forms)
        torch.testing.assert_close(here[:1], there[:1], atol=error, rtol=0)


@LIGHTNING_WARNINGS
def test_training_there_is_monitored(tmp_path: Path) -> None:
    monitor = LipschitzMonitor()
    model = fit(Tiny(), trainer(tmp_path, monitor, accelerator="gpu"))
    assert [row["epoch"] for row in monitor.history] == [0, 1, 2]
    for row in monitor.history:
        assert 0 < row["lower_bound"] <= row["bound"] <= row["product_bound"]
    metric = LipschitzBound((4,))
    metric.update(model.net.cuda())
    assert float(metric.compute()) == pytest.approx(monitor.history[-1]["bound"], rel=1e-2)
