"""sampled lower bound <= exact value where known <= certified bound <= product of norms."""

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import sandwich
from helpers.networks import Sample, convolutional, networks, with_weights
from helpers.sandwich import assert_sandwich
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lipguard
from lipguard import DCPConfig
from lipguard.errors import CertificateError, ConfigError
from lipguard.planning.orders.elimination import elimination_of
from lipguard.trusted.reading.trace import trace

CONFIGS = [
    DCPConfig(),
    DCPConfig(partition="cuts"),
    DCPConfig(partition="tiles", merge="sum"),
    DCPConfig(partition="tiles", merge="coverage", partition_factors=(2, 2)),
    DCPConfig(partition="tiles", merge="form", partition_factors=(2, 3)),
    DCPConfig(solver="power"),
    DCPConfig(solver="power", partition="tiles", partition_factors=(3, 2)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.solver}-{c.partition}-{c.merge}")
@given(sample=networks())
@settings(max_examples=10)
def test_random_networks_of_every_kind(sample: Sample, config: DCPConfig) -> None:
    assert_sandwich(sample.model, sample.input_shape, config)


@pytest.mark.parametrize("config", CONFIGS[2:], ids=lambda c: f"{c.solver}-{c.partition}-{c.merge}")
@given(sample=convolutional(largest=6, depth=5))
@settings(max_examples=10)
def test_random_convolutional_networks_in_tiles(sample: Sample, config: DCPConfig) -> None:
    assert_sandwich(sample.model, sample.input_shape, config)


def too_large_by_one(sample: Sample) -> DCPConfig:
    """Deterministic proofs with fronts one row smaller than those of the whole network: it is cut, if it can be."""
    largest = elimination_of(trace(sample.model, sample.input_shape)).largest
    return DCPConfig(proof="sparse", failure_probability=0, max_block_size=max(largest - 1, 2))


@given(sample=networks() | convolutional(largest=6, depth=4))
@settings(max_examples=10)
def test_random_networks_that_are_cut(sample: Sample) -> None:
    try:
        report = assert_sandwich(sample.model, sample.input_shape, too_large_by_one(sample))
    except ConfigError:  # no block can be as small
        return
    for block, parts in zip(report.plan.blocks, report.certificate.multipliers, strict=True):
        if not (block.cuts and parts):
            continue
        uncut = dataclasses.replace(report.plan, blocks=(dataclasses.replace(block, cuts=()),))
        with pytest.raises(CertificateError):
            lipguard.verify(dataclasses.replace(report.certificate, plan=uncut), sample.model)


def test_a_cut_network_is_bounded_better_than_the_product_of_its_parts() -> None:
    torch.manual_seed(0)
    layers = [m for i in range(4) for m in (nn.Conv2d(3 if i else 1, 3, 3, padding=1), nn.ReLU())]
    sample = Sample(nn.Sequential(*layers, nn.Flatten(), nn.Linear(192, 3)).double().eval(), (1, 8, 8))
    report = assert_sandwich(sample.model, sample.input_shape, too_large_by_one(sample))
    (block,) = report.plan.blocks
    assert block.cuts
    assert report.proof == "sparse"
    parts = [sample.model[: block.cuts[0]], sample.model[block.cuts[0] :]]
    first = lipguard.certify(parts[0], (1, 8, 8))
    second = lipguard.certify(parts[1], (3, 8, 8))
    whole = lipguard.certify(sample.model, (1, 8, 8))
    assert whole.bound * (1 - 1e-3) <= report.bound < 0.99 * first.bound * second.bound


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.solver}-{c.partition}-{c.merge}")
def test_many_random_networks(config: DCPConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten thousand in all."""
    count = 0

    @given(sample=networks(largest=7) | convolutional(largest=8, depth=6))
    @settings(max_examples=1430)
    def run(sample: Sample) -> None:
        nonlocal count
        assert_sandwich(sample.model, sample.input_shape, config)
        count += 1

    run()
    with capsys.disabled():
        print(f"\n{count} random networks, none above its bound, all verified")


@given(st.integers(0, 10**6))
@settings(max_examples=10)
def test_linear_networks_are_bounded_by_their_exact_constant(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)).double().eval()
    exact = float(torch.linalg.matrix_norm((model[2].weight @ model[1].weight @ model[0].weight).detach(), 2))
    report = assert_sandwich(model, (4,), exact=exact)
    assert report.lower_bound == pytest.approx(exact, rel=1e-3)
    single = lipguard.certify(model[0], (4,))
    assert single.bound == pytest.approx(float(torch.linalg.matrix_norm(model[0].weight.detach(), 2)), rel=1e-9)


@given(st.integers(0, 10**6), st.sampled_from([nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.LeakyReLU(0.3)]))
@settings(max_examples=10)
def test_one_hidden_neuron_is_bounded_by_its_exact_constant(seed: int, activation: nn.Module) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 1), activation, nn.Linear(1, 2)).double().eval()
    steepest = 0.25 if isinstance(activation, nn.Sigmoid) else 1.0
    exact = steepest * float(model[0].weight.detach().norm() * model[2].weight.detach().norm())
    report = assert_sandwich(model, (3,), exact=exact)
    assert report.bound <= exact * (1 + 1e-9)


def test_orthogonal_layers_have_constant_one() -> None:
    torch.manual_seed(0)
    layers = [nn.utils.parametrizations.orthogonal(nn.Linear(6, 6, bias=False, dtype=torch.float64)) for _ in range(3)]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]).eval()
    report = lipguard.certify(model, (6,))
    assert 1 - 1e-12 <= report.bound <= 1 + 1e-7


def test_a_small_relu_network_is_above_its_exact_constant_over_all_activation_patterns() -> None:
    """On every pattern that occurs the network is linear; over all patterns the largest norm is an upper bound of the
    exact constant, and for a hidden layer of independent rows every pattern does occur."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).double().eval()
    A, B = model[0].weight.detach(), model[2].weight.detach()
    patterns = (torch.tensor(p, dtype=torch.float64) for p in itertools.product([0.0, 1.0], repeat=5))
    exact = max(float(torch.linalg.matrix_norm(B @ torch.diag(p) @ A, 2)) for p in patterns)
    report = lipguard.certify(model, (6,))
    assert exact * (1 - 1e-12) <= report.bound < report.product_bound
    assert report.bound <= 1.05 * exact
    assert report.lower_bound == pytest.approx(exact, rel=0.2)


@pytest.mark.parametrize("seed", range(0, 60, 6))
def test_matrices_of_nearly_no_rank(seed: int) -> None:
    """On some of these LAPACK's choice for a single eigenvalue gives up."""
    layers = [nn.Conv2d(2, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)]
    last = nn.Conv2d(1, 1, 1, stride=(2, 1), padding=(2, 0), bias=False)
    sample = Sample(with_weights(nn.Sequential(nn.ReLU(), *layers, last), seed), (2, 3, 8))
    assert_sandwich(sample.model, sample.input_shape)


def test_dead_and_constant_networks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    nn.init.zeros_(model[2].weight)
    assert lipguard.certify(model, (3,)).bound == 0
    nn.init.ones_(model[2].weight)
    nn.init.zeros_(model[0].weight)
    assert lipguard.certify(model, (3,)).bound == 0


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e6, 1e12])
def test_the_bound_scales_with_the_weights(scale: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()
    reference = lipguard.certify(model, (4,)).bound
    with torch.no_grad():
        model[0].weight *= scale
        model[0].bias *= scale
    report = lipguard.certify(model, (4,))
    assert report.bound == pytest.approx(scale * reference, rel=2e-2)
    assert report.proof == "dense"


def test_duplicated_and_rank_deficient_layers() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(4, 4)).double().eval()
    with torch.no_grad():
        shared.weight[1] = shared.weight[0]
        shared.weight[3] = 0
    report = assert_sandwich(model, (4,))
    assert math.isfinite(report.bound)
    assert report.bound < report.product_bound


def test_the_one_pixel_image() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.Flatten()).double().eval()
    report = assert_sandwich(model, (1, 1, 1), DCPConfig(partition="tiles"))
    first, second = model[0].weight.detach()[:, 0, 1, 1], model[2].weight.detach()[:, :, 0, 0]
    weight = (second * (first > 0)) @ first  # all that a positive change of the one pixel can switch on
    assert report.bound >= float(weight.norm()) * (1 - 1e-12)


def test_certified_bounds_are_above_lipsdp_and_close_to_it_where_the_block_is_the_network() -> None:
    """An independent cvxpy model of LipSDP-Neuron, in the form of Fazlyab et al. (2019), Theorem 2."""
    import cvxpy as cp

    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()
    weights = [model[i].weight.detach().numpy() for i in (0, 2, 4)]
    A = np.zeros((9, 12))
    A[:5, :3], A[5:, 3:8] = weights[0], weights[1]
    B = np.hstack([np.zeros((9, 3)), np.eye(9)])
    rho, t = cp.Variable(), cp.Variable(9, nonneg=True)
    AB, T = np.vstack([A, B]), cp.diag(t)
    middle = cp.bmat([[np.zeros((9, 9)), T], [T, -2 * T]])
    ends = np.zeros((12, 12))
    ends[8:, 8:] = weights[2].T @ weights[2]
    E = np.zeros((12, 12))
    E[:3, :3] = np.eye(3)
    problem = cp.Problem(cp.Minimize(rho), [AB.T @ middle @ AB - rho * E + ends << 0])
    problem.solve(solver=cp.CLARABEL)
    optimum = math.sqrt(problem.value)
    report = lipguard.certify(model, (3,), DCPConfig(tolerance=1e-5, max_iterations=20000))
    assert optimum * (1 - 1e-6) <= report.bound <= optimum * (1 + 1e-3)


def test_a_bound_that_is_too_small_is_noticed_and_can_be_run_again() -> None:
    model = with_weights(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), 0)
    report = lipguard.certify(model, (3,))
    example = sandwich.Example(model, (3,), DCPConfig(seed=7), sandwich.drawn((3,)))
    shown = max(sandwich.sampled(model, example.x), report.lower_bound)
    with pytest.raises(AssertionError, match="above the bound") as failed, sandwich.repeatable(example):
        sandwich.assert_between(model, dataclasses.replace(report, bound=shown * (1 - 1e-6)), example.x)
    (note,) = failed.value.__notes__
    assert "seed=7" in note
    assert "Linear(in_features=3, out_features=4, bias=True)" in note
    path = Path(note.rsplit(" ", 1)[1])
    assert sandwich.again(path).bound == pytest.approx(report.bound, rel=1e-12)
    path.unlink()


@pytest.mark.parametrize(
    "wrong", [{"exact": 1e-3}, {"exact": 1e3}, {"lower_bound": 1e3}, {"product_bound": 1e-3}, {"bound": 1.5}]
)
def test_every_side_of_the_sandwich_is_looked_at(wrong: dict[str, float]) -> None:
    model = with_weights(nn.Sequential(nn.Linear(3, 2)), 0)
    report, exact = lipguard.certify(model, (3,)), wrong.pop("exact", None)
    if "bound" in wrong:  # large enough, but not what the certificate says
        wrong = {"bound": 1.5 * report.bound, "product_bound": 2 * report.bound}
    with pytest.raises(AssertionError):
        sandwich.assert_between(model, dataclasses.replace(report, **wrong), sandwich.drawn((3,)), exact)
