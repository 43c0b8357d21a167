"""`max_seconds` bounds everything that is done, and what it leaves is certified."""

import itertools
import math
import time
from typing import Any

import pytest
import torch
from torch import nn

import lipguard
from lipguard import Box, DCPConfig
from lipguard.certifying import certify as certification
from lipguard.certifying.budget import Budget
from lipguard.certifying.report import Report
from lipguard.certifying.request import Request
from lipguard.planning import search
from lipguard.planning.machine import CostModel
from lipguard.planning.orders import elimination
from lipguard.planning.search import find_plan, search_deadline
from lipguard.trusted.network.graph import Network
from lipguard.trusted.norms import matrices
from lipguard.trusted.proofs.hints import Hints
from lipguard.trusted.reading.trace import trace
from lipguard.trusted.regions import bounded

SHAPE = (1, 8, 8)
COST = CostModel(1e-6, 1.6)


def cnn(width: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(9 * width, 4),
    ).eval()  # fmt: skip


def late(report: lipguard.Report, model: nn.Module) -> None:
    assert report.lower_bound <= report.bound <= report.product_bound
    certificate = report.certificate
    assert lipguard.verify(certificate, model, domain=certificate.domain) == report.bound


@pytest.mark.parametrize("settings", [
    {"proof": "sparse"}, {"proof": "dense"}, {"proof": "randomised"}, {"partition": "tiles"}, {"solver": "scs"},
    {"failure_probability": 0, "max_block_size": 60},
])  # fmt: skip
@pytest.mark.parametrize("seconds", [1e-9, 0.05])
def test_a_budget_of_next_to_nothing_leaves_a_bound_that_verifies(seconds: float, settings: dict[str, object]) -> None:
    began = time.monotonic()
    report = lipguard.certify(cnn(), SHAPE, DCPConfig.from_dict({"max_seconds": seconds} | settings))
    assert time.monotonic() - began < 10
    late(report, cnn())
    if report.bound == report.product_bound:
        assert report.status.startswith("fallback")


@pytest.mark.parametrize("seconds", [1e-9, 0.3, 60.0])
def test_both_runs_of_a_domain_share_the_budget(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[float] = []
    own = certification.run

    def noted(request: Request, budget: Budget, *others: Any) -> Report:
        ends.append(budget.deadline)
        return own(request, budget, *others)

    monkeypatch.setattr(certification, "run", noted)
    began = time.monotonic()
    report = lipguard.certify(cnn(), SHAPE, DCPConfig(max_seconds=seconds), domain=Box(0, 1))
    assert report.restricted is not None
    assert max(ends) <= began + seconds + 1
    assert min(ends) <= began + seconds / 2 + 1
    for found in (report, report.restricted):
        assert found.bound <= report.bound
        late(found, cnn())


def test_a_domain_without_time_for_its_slopes_has_the_bound_that_holds_everywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = bounded.node_norms

    def slow(network: Network, hints: Hints, deadline: float = math.inf, *, exact: bool = False) -> list[float]:
        if exact:
            raise matrices.LateNormError
        return own(network, hints, deadline)

    monkeypatch.setattr(bounded, "node_norms", slow)
    report = lipguard.certify(cnn(), SHAPE, DCPConfig(max_seconds=60.0), domain=Box(0, 1))
    assert report.restricted is not None
    assert (report.restricted.bound, report.restricted.lower_bound) == (report.bound, 0.0)
    assert report.restricted.status == "fallback: no time for the slopes on the domain"


@pytest.mark.parametrize("settings", [
    {"solver": "scs"}, {"partition": "cuts"}, {"partition": "tiles"}, {"failure_probability": 0, "max_memory": 1e5},
    {"proof": "sparse", "max_block_size": 40}, {},
])  # fmt: skip
def test_a_search_ends_wherever_its_deadline_falls(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that ticks with every look at it: what was found by then is a plan of the network."""
    network = trace(cnn(), SHAPE)
    looks = []
    for deadline in (0.5, 3.5, 10.5, 1e6):
        clock = itertools.count()
        elimination._known.clear()
        monkeypatch.setattr(search.time, "monotonic", lambda clock=clock: float(next(clock)))
        plan = find_plan(network, DCPConfig.from_dict(settings), COST, deadline=deadline)
        plan.check(network)
        looks.append(next(clock))
    assert looks[0] <= looks[-1]


def test_a_search_has_a_limit_without_a_budget() -> None:
    now = time.monotonic()
    assert search_deadline(DCPConfig(), now) == now + search.MOST_SEARCH < math.inf
    assert search_deadline(DCPConfig(max_seconds=100.0), now) == now + search.SHARE_OF_SEARCH * 100
    assert search_deadline(DCPConfig(max_seconds=100.0), now, now + 2) == now + 2


def test_a_product_is_complete_only_where_no_multipliers_prove_less(monkeypatch: pytest.MonkeyPatch) -> None:
    config = DCPConfig(solver="scs", partition="cuts")
    monkeypatch.setattr(search, "_BLOCK_SIZES", {"scs": (2, 2)})  # nothing fits
    report = lipguard.certify(cnn(), SHAPE, config)
    assert report.bound == report.product_bound
    assert report.status.startswith("fallback: block 0: no LMI of it fits")
    plain = lipguard.certify(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), (3,), config)
    assert plain.status == "complete"


def test_a_diagonal_network_is_worth_its_product_and_complete() -> None:
    model = nn.Sequential(nn.Linear(4, 4, False), nn.ReLU(), nn.Linear(4, 4, False)).eval()
    with torch.no_grad():
        for k in (0, 2):
            model[k].weight.copy_(torch.diag(torch.linspace(0.5, 2.0, 4)))
    report = lipguard.certify(model, (4,))
    assert report.bound == pytest.approx(4.0, rel=1e-3)
    assert report.status == "complete"


@pytest.mark.slow
@pytest.mark.parametrize("domain", [False, True])
def test_a_large_network_ends_in_time(domain: bool) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 128, 256, 512):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU()]
        channels = width
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 10)).eval()
    seconds, began = 10.0, time.monotonic()
    report = lipguard.certify(model, (3, 32, 32), DCPConfig(max_seconds=seconds), domain=Box(0, 1) if domain else None)
    assert time.monotonic() - began <= 1.1 * seconds + 2
    assert report.bound <= report.product_bound
    assert (report.status == "complete") == (report.bound < report.product_bound)
