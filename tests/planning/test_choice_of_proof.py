"""Which proof a whole network gets, and that every kind gives a verified bound."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lipguard
from lipguard import DCPConfig
from lipguard.certifying import subject
from lipguard.errors import CertificateError, ConfigError
from lipguard.planning import memory
from lipguard.planning.machine import CostModel
from lipguard.planning.memory import free_memory
from lipguard.planning.orders.elimination import elimination_of
from lipguard.planning.plan import PartitionPlan
from lipguard.planning.prices import iteration, kinds, randomised, sparse
from lipguard.planning.prices.iteration import which_multipliers
from lipguard.planning.prices.kinds import PRICES, choose_proof
from lipguard.planning.prices.passes import lanczos_steps, step_seconds
from lipguard.planning.prices.price import Price
from lipguard.planning.prices.randomised import randomised_clearance
from lipguard.planning.search import find_plan
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs.kinds import CHECKS
from lipguard.trusted.proofs.randomised import steps_needed
from lipguard.trusted.reading.trace import trace

COST = CostModel(1e-8, 2.5, 2e10)
PLENTY = 1e11


class Residual(nn.Module):
    """x + g(x), and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1))
        self.head = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(2 * 36, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.body(x))  # type: ignore[no-any-return]


def convolutions(channels: int, size: int, depth: int = 3) -> Network:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(channels if i else 1, channels, 3, padding=1), nn.ReLU()]
    return trace(nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, 10)).eval(), (1, size, size))


def chosen(network: Network, memory: float = PLENTY, **settings: object) -> Price | None:
    return choose_proof(network, DCPConfig.from_dict(settings), COST, memory)


def kind(network: Network, memory: float = PLENTY, **settings: object) -> str | None:
    proof = chosen(network, memory, **settings)
    assert proof is None or proof.reason
    return None if proof is None else proof.kind


def test_deterministic_while_it_is_cheap_randomised_above_that() -> None:
    assert kind(convolutions(4, 14)) == "sparse"
    assert kind(trace(nn.Sequential(nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 2)).eval(), (9,))) == "dense"
    large = convolutions(32, 32, depth=8)
    assert kind(large) == "randomised"
    assert kind(large, failure_probability=0) == "sparse"


def test_predictions_grow_with_the_network() -> None:
    for name in ("dense", "sparse", "randomised"):
        small, large = (chosen(convolutions(c, 12), proof=name) for c in (2, 6))
        assert small is not None
        assert large is not None
        assert small.kind == large.kind == name
        assert 0 < small.seconds < large.seconds
        assert 0 < small.bytes < large.bytes


def test_what_does_not_fit_into_memory_is_not_chosen() -> None:
    network = convolutions(8, 28)
    sparse = chosen(network, proof="sparse")
    assert sparse is not None
    assert kind(network, sparse.bytes / 2) == "randomised"
    assert kind(network, sparse.bytes / 2, failure_probability=0) is None
    assert kind(network, sparse.bytes / 2, proof="sparse") is None


def test_the_time_budget_decides() -> None:
    network = convolutions(64, 40, depth=4)
    sparse, randomised = (chosen(network, proof=name) for name in ("sparse", "randomised"))
    assert sparse is not None
    assert randomised is not None
    assert sparse.seconds > randomised.seconds > 1
    assert kind(network, max_seconds=10 * sparse.seconds) == "sparse"
    assert kind(network, max_seconds=2 * randomised.seconds) == "randomised"
    shorter = chosen(network, max_seconds=0.5 * randomised.seconds)  # by a larger clearance
    assert shorter is not None
    assert shorter.kind == "randomised"
    assert shorter.seconds < 0.5 * randomised.seconds
    assert kind(network, max_seconds=0.01 * randomised.seconds) == "randomised"  # nothing is lost by trying
    assert kind(network, max_seconds=0.5 * sparse.seconds, failure_probability=0) is None


def test_an_order_of_elimination_is_not_looked_for_where_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    network = convolutions(16, 40, depth=4)
    enough = sparse.search_seconds(network) / kinds.SHARE_OF_SEARCH
    monkeypatch.setattr(sparse, "elimination_of", lambda *_: pytest.fail("an order was looked for"))
    found = chosen(network, max_seconds=0.9 * enough)
    assert found is not None
    assert found.kind == "randomised"
    assert "no time" in found.reason
    for settings in ({"max_seconds": 1.1 * enough}, {"max_seconds": 0.9 * enough, "failure_probability": 0}, {}):
        with pytest.raises(pytest.fail.Exception):
            chosen(network, **settings)


def test_the_largest_block_limits_dense_matrices_and_fronts() -> None:
    network = convolutions(2, 8)
    largest = elimination_of(network).largest
    assert kind(network, proof="dense") == "dense"
    assert kind(network, proof="dense", max_block_size=largest) is None
    assert kind(network, max_block_size=largest) == "sparse"
    assert kind(network, max_block_size=largest - 1) == "randomised"
    assert kind(network, max_block_size=largest - 1, failure_probability=0) is None


def test_the_memory_is_as_given_or_half_of_what_is_free() -> None:
    network = convolutions(8, 28)
    sparse = choose_proof(network, DCPConfig(proof="sparse"), COST, PLENTY)
    assert sparse is not None
    assert choose_proof(network, DCPConfig(max_memory=sparse.bytes), COST).kind == "sparse"  # type: ignore[union-attr]
    assert choose_proof(network, DCPConfig(max_memory=sparse.bytes - 1), COST).kind == "randomised"  # type: ignore[union-attr]
    for wrong in (0, -1.0, True, "1e9", float("inf")):
        with pytest.raises(ConfigError, match="max_memory"):
            DCPConfig.from_dict({"max_memory": wrong})


@pytest.mark.parametrize("p", [-1e-9, 1.0, 2, True, "0.1", float("nan")])
def test_a_probability_is_one(p: object) -> None:
    with pytest.raises(ConfigError, match="failure_probability"):
        DCPConfig.from_dict({"failure_probability": p})


def test_a_randomised_proof_needs_a_probability() -> None:
    with pytest.raises(ConfigError, match="failure_probability above 0"):
        DCPConfig(proof="randomised", failure_probability=0)


def test_free_memory_is_known_or_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_memory() > 1e8

    def denied(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("builtins.open", denied)
    monkeypatch.setattr(memory.os, "sysconf", denied)
    assert free_memory() == 4e9


def model(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    if name == "residual":
        return Residual().eval(), (2, 6, 6)
    layers = [nn.Conv2d(1, 4, 3, stride=2), nn.LeakyReLU(0.1), nn.Conv2d(4, 4, 3), nn.Tanh(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * 9 * 3, 3)).eval(), (1, 24, 12)


@pytest.fixture(scope="module", params=["residual", "convolutional"])
def reports(request: pytest.FixtureRequest) -> tuple[nn.Module, dict[str, lipguard.Report]]:
    network, shape = model(request.param)
    kinds = ("dense", "sparse", "randomised")
    return network, {name: lipguard.certify(network, shape, DCPConfig(proof=name)) for name in kinds}


def test_every_proof_gives_about_the_same_bound(reports: tuple[nn.Module, dict[str, lipguard.Report]]) -> None:
    network, found = reports
    for name, report in found.items():
        assert report.status == "complete"
        assert report.proof == report.certificate.proof == name
        assert report.lower_bound <= report.bound < 0.95 * report.product_bound
        assert report.bound == pytest.approx(found["dense"].bound, rel=0.01)
        assert 0 <= report.relaxation_gap < 0.01
        assert report.failure_probability == (1e-12 if name == "randomised" else 0.0)
        assert f"{name} proof: proof='{name}'" in str(report)
        assert lipguard.verify(report.certificate, network) == report.bound


def test_certificates_survive_a_file(reports: tuple[nn.Module, dict[str, lipguard.Report]], tmp_path: Path) -> None:
    network, found = reports
    for name, report in found.items():
        path = report.certificate.save(tmp_path / f"{name}.npz")
        assert lipguard.verify(lipguard.Certificate.load(path), network) == report.bound


def test_what_was_tampered_with_is_refused(reports: tuple[nn.Module, dict[str, lipguard.Report]]) -> None:
    network, found = reports
    for report in found.values():
        certificate = report.certificate
        lower = {"forms": tuple(0.9 * form for form in certificate.forms), "bound": 0.95 * certificate.bound}
        for change in (
            lower,
            {"bound": 0.999 * certificate.bound},
            {"forms": ()},
            {"forms": tuple(-form for form in certificate.forms)},
            {"forms": tuple(np.nan * form for form in certificate.forms)},
            {"proof": "sparse" if certificate.proof == "dense" else "dense"},
            {"failure_probability": 0.0 if certificate.failure_probability else 1e-3},
            {"multipliers": tuple(tuple(0.5 * t for t in parts) for parts in certificate.multipliers)},
        ):
            with pytest.raises(CertificateError):
                lipguard.verify(dataclasses.replace(certificate, **change), network)


def test_the_kind_of_proof_is_part_of_the_claim(reports: tuple[nn.Module, dict[str, lipguard.Report]]) -> None:
    network, found = reports
    for name, report in found.items():
        (block,) = report.plan.blocks
        for other in ("dense", "sparse", "randomised", "product", "belief"):
            plan = dataclasses.replace(report.plan, blocks=(dataclasses.replace(block, proof=other),))
            if other != name:
                with pytest.raises(CertificateError):
                    lipguard.verify(dataclasses.replace(report.certificate, plan=plan), network)


@pytest.mark.parametrize("clearance", [0.0, -1e-3, 1e-300, 1e-13, 0.5, 1e300, float("nan"), float("inf")])
def test_a_margin_that_is_not_there_proves_nothing(
    reports: tuple[nn.Module, dict[str, lipguard.Report]], clearance: float
) -> None:
    network, found = reports
    with pytest.raises(CertificateError):
        lipguard.verify(dataclasses.replace(found["randomised"].certificate, slacks=(clearance,)), network)


def test_channel_multipliers_are_one_per_channel_and_looser() -> None:
    network, shape = model("convolutional")
    tied = lipguard.certify(network, shape, DCPConfig(multipliers="channel"))
    free = lipguard.certify(network, shape)
    assert free.bound < tied.bound < tied.product_bound
    first = tied.certificate.multipliers[0][0][: 4 * 11 * 5].reshape(4, -1)
    assert (first == first[:, :1]).all()
    assert lipguard.verify(tied.certificate, network) == tied.bound


def test_multipliers_per_channel_where_time_is_short_or_a_network_deep() -> None:
    large, deep = convolutions(16, 28), convolutions(4, 28, depth=9)
    assert which_multipliers(convolutions(2, 14), DCPConfig(max_seconds=1e-3), COST) == "neuron"
    assert which_multipliers(large, DCPConfig(), COST) == "neuron"
    assert which_multipliers(deep, DCPConfig(), COST) == "both"
    step = step_seconds(large, COST)
    for steps, expected in ((20, "channel"), (100, "both"), (1000, "neuron")):
        within = DCPConfig(max_seconds=steps * step / iteration.SHARE_OF_ITERATION)
        assert which_multipliers(large, within, COST) == expected
    for asked in ("neuron", "channel"):
        assert which_multipliers(deep, DCPConfig(multipliers=asked), COST) == asked


@pytest.mark.slow
def test_both_kinds_of_multipliers_are_tried_and_the_better_ones_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (iteration, sparse, subject):
        monkeypatch.setattr(module, "LARGE", 100)
    torch.manual_seed(0)
    layers = [m for i in range(9) for m in (nn.Conv2d(2 if i else 1, 2, 3, padding=1), nn.ReLU())]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 3)).eval()
    bounds = {}
    for kind in ("neuron", "channel", "auto"):
        report = lipguard.certify(network, (1, 8, 8), DCPConfig(multipliers=kind))
        assert report.status == "complete"
        assert lipguard.verify(report.certificate, network) == report.bound
        bounds[kind] = report.bound
        assert report.plan.blocks[0].multipliers == {"auto": "both"}.get(kind, kind)
    assert bounds["auto"] <= min(bounds["neuron"], bounds["channel"]) * 1.01
    again = lipguard.certify(network, (1, 8, 8), DCPConfig(), report)
    assert again.bound <= report.bound * 1.01
    assert "the better ones" in str(report.plan)
    hurried = lipguard.certify(network, (1, 8, 8), DCPConfig(max_iterations=12))
    tied_only = lipguard.certify(network, (1, 8, 8), DCPConfig(max_iterations=12, multipliers="channel"))
    assert hurried.bound <= tied_only.bound * 1.01


def test_every_kind_of_proof_has_a_price() -> None:
    assert list(PRICES) == list(CHECKS)


def test_a_prediction_has_the_degree_that_the_proof_will_have() -> None:
    """Seconds are in proportion to the steps, but for those before it."""
    network = convolutions(4, 14)
    one, other = (
        randomised.estimate(network, DCPConfig(failure_probability=p), COST, math.inf).seconds for p in (1e-3, 1e-200)
    )
    variables = sum(node.size for node in network.nodes)
    clearance = randomised_clearance(network, 1e-3)
    few, many = (steps_needed(variables, clearance, 2.0, p) for p in (1e-3, 1e-200))
    assert many > 3 * few
    beside = lanczos_steps(network, 1e-3) / 4
    assert other / one == pytest.approx((many + beside) / (few + beside), rel=1e-12)


def test_plans_say_what_else_there_was() -> None:
    network = convolutions(8, 28)
    considered = find_plan(network, DCPConfig(failure_probability=0, max_memory=1e6), COST).considered
    text = "\n".join(considered)
    for words in ("dense proof", "sparse proof", "randomised proof", "not deterministic", "more memory", "chosen"):
        assert words in text
    found = find_plan(network, DCPConfig(max_memory=1e11), COST)
    assert "considered:" in str(found)
    assert "sparse proof" in str(found)
    assert PartitionPlan.from_dict(found.to_dict()) == found
