"""Certificates against oracles that share no code with the verifier."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import flint
import numpy as np
import pytest
from helpers import balls, exact
from helpers.networks import Sample, networks, with_weights
from helpers.sandwich import assert_sandwich
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import lipguard
from lipguard import DCPConfig
from lipguard.trusted.reading.trace import trace

KINDS = {"dense": DCPConfig(proof="dense"), "sparse": DCPConfig(proof="sparse"),
         "randomised": DCPConfig(proof="randomised")}  # fmt: skip


MOST = 60  # rows, of those that are proved in each run: balls take the third power of their number, and much longer


def proved_again_by_balls(sample: Sample, config: DCPConfig) -> bool:
    """Whether there was something to prove: the claim of a certificate, as exact numbers, in ball arithmetic."""
    report = lipguard.certify(sample.model, sample.input_shape, config)
    (block, *others), (multipliers, *_) = report.plan.blocks, report.certificate.multipliers
    if others or block.kind != "whole" or block.cuts or not multipliers:
        return False
    A = balls.lmi(sample, multipliers[0], float(report.certificate.forms[0][0]))
    hair = max((abs(x) for x in A.entries()), default=flint.fmpq(1)) / 10**40
    for i in range(A.nrows()):  # the verifier proves semidefiniteness; a hair makes it definite
        A[i, i] += hair
    assert balls.is_positive_definite(A), "the verifier accepted what ball arithmetic does not prove"
    assert (
        Fraction(report.bound) ** 2 >= Fraction(float(report.certificate.forms[0][0]))
        or report.bound == report.product_bound
    )
    return True


@pytest.mark.parametrize("kind", list(KINDS))
@given(sample=networks(largest=3))
@settings(max_examples=12)
def test_ball_arithmetic_proves_what_the_verifier_accepts(sample: Sample, kind: str) -> None:
    network = trace(sample.model, sample.input_shape)
    assume(network.neurons + network.nodes[0].size <= MOST)
    proved_again_by_balls(sample, KINDS[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_ball_arithmetic_on_many_networks(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    counts = [0, 0]

    @given(sample=networks(largest=6))
    @settings(max_examples=400)
    def run(sample: Sample) -> None:
        counts[0] += 1
        counts[1] += proved_again_by_balls(sample, KINDS[kind])

    run()
    with capsys.disabled():
        print(f"\n{kind}: {counts[1]} certificates of {counts[0]} networks proved again in ball arithmetic")
    assert counts[1] > 150


def test_the_oracle_itself_refuses_what_is_not_definite() -> None:
    A = exact.exact(np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 2.0]]))
    assert balls.is_positive_definite(balls.rational(A))
    smallest = 2 - math.sqrt(2)
    for shift, verdict in ((smallest - 1e-12, True), (smallest + 1e-12, False), (3.0, False)):
        B = A.copy()
        B[np.arange(3), np.arange(3)] -= Fraction(shift)
        assert balls.is_positive_definite(balls.rational(B)) is verdict
        assert exact.is_positive_semidefinite(B) is verdict


def mlp(sizes: list[int], seed: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    model = with_weights(nn.Sequential(*layers[:-1]), seed)
    assert isinstance(model, nn.Sequential)
    return model


@given(st.integers(0, 10**6), st.lists(st.integers(1, 7), min_size=3, max_size=5))
@settings(max_examples=10)
def test_nothing_is_below_the_optimum_of_an_interior_point_solver(seed: int, sizes: list[int]) -> None:
    """LipSDP-Neuron written down anew, for cvxpy with Clarabel; a chain of matrices and ReLUs."""
    import cvxpy as cp

    model = mlp(sizes, seed)
    W = [layer.weight.detach().numpy() for layer in model if isinstance(layer, nn.Linear)]
    scale = math.prod(float(np.linalg.norm(w, 2)) for w in W)
    W = [w / float(np.linalg.norm(w, 2)) for w in W]
    hidden = [len(w) for w in W[:-1]]
    starts = np.cumsum([sizes[0], *hidden])
    n = int(starts[-1])
    rho, t = cp.Variable(), cp.Variable(sum(hidden), nonneg=True)
    A = np.zeros((sum(hidden), n))
    B = np.zeros((sum(hidden), n))
    row, column = 0, 0
    for w, start in zip(W[:-1], starts[:-1], strict=True):
        A[row : row + len(w), column : column + w.shape[1]] = w
        B[row : row + len(w), start : start + len(w)] = np.eye(len(w))
        row, column = row + len(w), int(start)
    Y = np.zeros((len(W[-1]), n))
    Y[:, column:] = W[-1]
    first = np.diag(np.r_[np.ones(sizes[0]), np.zeros(n - sizes[0])])
    cross = B.T @ cp.diag(t) @ A
    form = rho * first - Y.T @ Y + 2 * B.T @ cp.diag(t) @ B - cross - cross.T
    problem = cp.Problem(cp.Minimize(rho), [(form + form.T) / 2 >> 0])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    optimum = math.sqrt(max(float(rho.value), 0.0)) * scale
    for config in KINDS.values():
        report = lipguard.certify(model, (sizes[0],), config)
        assert report.bound >= optimum * (1 - 1e-6)
        assert report.lower_bound <= report.bound


@given(st.integers(0, 10**6), st.integers(1, 5))
@settings(max_examples=20)
def test_the_constant_of_one_hidden_layer_by_all_its_patterns(seed: int, hidden: int) -> None:
    """max |W2 D W1| over all patterns D is reached wherever the rows of W1 are independent."""
    model = mlp([6, hidden, 2], seed)
    W1, W2 = (layer.weight.detach().numpy() for layer in model if isinstance(layer, nn.Linear))
    patterns = (np.array([(k >> i) & 1 for i in range(hidden)], dtype=float) for k in range(2**hidden))
    largest = max(float(np.linalg.norm(W2 * d @ W1, 2)) for d in patterns)
    report = lipguard.certify(model, (6,))
    assert largest <= report.bound
    assert report.lower_bound <= largest * (1 + 1e-9)


@pytest.mark.slow
def test_lower_bounds_of_the_peers_networks_are_below_their_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    from helpers.peers import peers

    found = list(peers())
    if not found:
        pytest.skip("LIPGUARD_PEERS is not set")
    for name, model, shape in found:
        report = assert_sandwich(model, shape, DCPConfig(max_seconds=60.0))
        with capsys.disabled():
            print(f"{name}: {report.lower_bound:.4g} <= {report.bound:.4g}")
