"""What a certification starts from: a plan with its predictions, or a certificate, which has none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.networks import with_weights
from torch import nn

import lipguard
from lipguard import DCPConfig
from lipguard.errors import CertificateError
from lipguard.trusted.certificate.blocks import Partition

SHAPE = (1, 8, 8)


def cnn(seed: int = 0) -> nn.Module:
    layers = [nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)]
    return with_weights(nn.Sequential(*layers), seed)


@pytest.fixture(scope="module", params=[{}, {"partition": "tiles", "max_block_size": 100}], ids=["one", "tiles"])
def report(request: pytest.FixtureRequest) -> lipguard.Report:
    return lipguard.certify(cnn(), SHAPE, DCPConfig(**request.param))


def config_of(report: lipguard.Report) -> DCPConfig:
    return DCPConfig.from_dict(dict(report.plan.settings))


def test_a_certificate_holds_the_partition_and_a_warm_start_the_plan(report: lipguard.Report, tmp_path: Path) -> None:
    assert type(report.certificate.plan) is Partition
    assert report.certificate.plan == report.plan.partition
    torch.save(report.warm_start.to_state(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    restored = type(report.warm_start).from_state(state)
    assert restored.plan == report.plan
    assert str(restored.plan) == str(report.plan)
    assert restored.certificate.plan == report.certificate.plan
    again = lipguard.certify(cnn(1), SHAPE, config_of(report), restored)
    assert again.plan is restored.plan


@pytest.mark.parametrize("alone", [False, True])
def test_without_a_plan_multipliers_are_taken_up_all_the_same(report: lipguard.Report, alone: bool) -> None:
    """From a certificate alone, or from a checkpoint that holds no plan."""
    known = type(report.warm_start)(report.certificate, plan=report.plan) if alone else report.warm_start
    state = known.to_state()
    del state["plan"]
    start = report.certificate if alone else type(known).from_state(state)
    as_it_is = lipguard.certify(cnn(), SHAPE, config_of(report), start, optimise=False)
    assert as_it_is.bound == lipguard.certify(cnn(), SHAPE, config_of(report), known, optimise=False).bound
    assert as_it_is.status == "reused"
    assert as_it_is.plan.partition == report.plan.partition
    assert as_it_is.bound < report.product_bound
    assert [row["rows"] for row in as_it_is.details()] == [row["rows"] for row in report.details()]
    assert lipguard.verify(as_it_is.certificate, cnn()) == as_it_is.bound
    optimised = lipguard.certify(cnn(), SHAPE, config_of(report), start)
    assert optimised.plan.partition == report.plan.partition
    assert optimised.bound <= report.bound * 1.001


def test_a_state_whose_plan_cannot_be_read_is_refused(report: lipguard.Report) -> None:
    for spoiled in ("{", "{}", "[]", 3):
        state = report.warm_start.to_state() | {"plan": spoiled}
        with pytest.raises(CertificateError):
            type(report.warm_start).from_state(state)


def test_a_plan_that_does_not_fit_is_searched_for_again(report: lipguard.Report) -> None:
    other = lipguard.plan(with_weights(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), 0), (3,))
    start = type(report.warm_start)(report.certificate, plan=other)
    for optimise in (False, True):
        found = lipguard.certify(cnn(), SHAPE, config_of(report), start, optimise=optimise)
        assert found.plan.partition == report.plan.partition
        assert lipguard.verify(found.certificate, cnn()) == found.bound
