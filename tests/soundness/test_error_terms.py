"""Every error term at least as large as its derivation in docs/soundness.md has it, in exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from helpers import exact
from helpers.networks import Sample, with_weights
from numpy.typing import NDArray
from torch import nn

import lipguard
from lipguard import DCPConfig
from lipguard.certifying.hints import HINTS
from lipguard.trusted.certificate.blocks import Block, Partition
from lipguard.trusted.certificate.verify import share_of_probability
from lipguard.trusted.layers import Conv2d, Scale
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.network.tiling import Tiling
from lipguard.trusted.norms import convolutions, frequencies, matrices
from lipguard.trusted.norms import layers as layer_norms
from lipguard.trusted.proofs import cholesky, dense, randomised, sparse, tiles
from lipguard.trusted.reading.trace import trace

Array = NDArray[np.float64]
U = Fraction(1, 2**53)


def gamma(n: int) -> Fraction:
    return n * U / (1 - n * U)


def rump(n: int, trace: Fraction) -> Fraction:
    """What the diagonal must be lowered by before a factorisation of order n in floating point."""
    g = gamma(n + 2)
    return g / (1 - g) * trace + 8 * n * (n + 4) * Fraction(2) ** -1021


@pytest.mark.parametrize("n", [1, 2, 7, 100, 5000])
@pytest.mark.parametrize("size", [0.0, 1e-300, 1.0, 3.7, 1e9])
def test_the_error_of_a_factorisation(n: int, size: float) -> None:
    found = Fraction(cholesky.factorisation_error(n, n * size))
    needed = rump(n, Fraction(n * size)) + gamma(n + 2) ** 2 * Fraction(n * size)  # the trace is a sum of n floats
    assert needed <= found <= 2 * needed


@pytest.fixture
def factored(monkeypatch: pytest.MonkeyPatch) -> list[Array]:
    """What dense Cholesky is given."""
    seen: list[Array] = []
    own = cholesky.scipy.linalg.cholesky

    def recorded(B: Array, **options: Any) -> Any:
        seen.append(B.copy())
        return own(B, **options)

    monkeypatch.setattr(cholesky.scipy.linalg, "cholesky", recorded)
    return seen


@pytest.mark.parametrize("n", [1, 2, 5])
def test_what_is_factored_is_below_every_matrix_that_is_meant(n: int, factored: list[Array]) -> None:
    """Lowered by the norm of the error and by the factorisation's own, whatever was rounded on the way."""
    rng, tried = np.random.default_rng(n), 0
    for _ in range(200):
        G = rng.standard_normal((n, n))
        A = G @ G.T + np.eye(n)
        A = (A + A.T) / 2 * 10.0 ** rng.integers(-3, 4)
        error = np.abs(rng.standard_normal((n, n))) * 10.0 ** rng.integers(-17, -2)
        error = error + error.T
        factored.clear()
        cholesky.is_positive_semidefinite(A, error)
        if not factored:  # nothing is left of the diagonal
            continue
        (B,) = factored
        tried += 1
        scale = [Fraction(2) ** -math.floor(math.log2(a) / 2) for a in np.diag(A)]
        scaled = [[scale[i] * Fraction(A[i, j]) * scale[j] for j in range(n)] for i in range(n)]
        rows = [sum(scale[i] * Fraction(error[i, j]) * scale[j] for j in range(n)) for i in range(n)]
        lowered = max(rows) + rump(n, sum((scaled[i][i] for i in range(n)), Fraction(0)))
        for i in range(n):
            assert Fraction(B[i, i]) <= scaled[i][i] - lowered
            assert all(Fraction(B[i, j]) == scaled[i][j] for j in range(n) if j != i)
    assert tried > 150


def test_the_sum_of_a_row_of_errors_is_rounded_up(factored: list[Array]) -> None:
    """Added up one by one, 1 + u is 1 again and again."""
    n = 7
    error = np.full((n, n), 2.0**-53)
    np.fill_diagonal(error, 0.0)
    error[0, 0] = 1.0
    cholesky.is_positive_semidefinite(1.5 * np.eye(n), error)
    lowered = 1 + (n - 1) * U + rump(n, n * Fraction(1.5))
    assert Fraction(factored[0][0, 0]) <= Fraction(1.5) - lowered


def test_a_clearance_smaller_than_the_error_terms_is_refused() -> None:
    """Although the matrix is positive definite: the proof may not know."""
    for error in (0.0, 1e-14, 1e-9, 1e-3):
        E = np.array([[error, 0.0], [0.0, 0.0]])
        needed = Fraction(error) + rump(2, Fraction(2))
        for factor, verdict in ((0.9, False), (3.0, True)):
            off = 1 - math.ceil(factor * float(needed) / 2**-53) * 2.0**-53
            assert cholesky.is_positive_semidefinite(np.array([[1.0, off], [off, 1.0]]), E) is verdict


def test_the_difference_from_a_bound_carries_its_rounding() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        G = rng.standard_normal((3, 3))
        A, error = cholesky.minus(7.3, G, np.zeros((3, 3)))
        for i in range(3):
            for j in range(3):
                true = (Fraction(7.3) if i == j else 0) - Fraction(G[i, j])
                assert abs(true - Fraction(A[i, j])) <= Fraction(error[i, j])


def sample(activation: type[nn.Module] = nn.ReLU) -> Sample:
    layers = [nn.Linear(9, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 2)]
    return Sample(with_weights(nn.Sequential(*layers), 1), (9,))


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Array, Array]]:
    """Matrices and errors that are handed to the dense proof."""
    seen: list[tuple[Array, Array]] = []
    own = dense.is_positive_semidefinite

    def recorded(A: Array, error: Array) -> bool:
        seen.append((A.copy(), error.copy()))
        return own(A, error)

    monkeypatch.setattr(dense, "is_positive_semidefinite", recorded)
    return seen


def assert_covered(A: Array, error: Array, true: NDArray[Any], magnitude: Fraction | int = 0) -> None:
    off = 0
    for found, bound, meant in zip(A.ravel(), error.ravel(), true.ravel(), strict=True):
        assert abs(Fraction(float(found)) - meant) <= Fraction(float(bound))
        assert Fraction(float(bound)) >= magnitude * abs(meant)
        off += Fraction(float(found)) != meant
    assert off  # something was rounded


def test_the_form_of_a_block_is_within_its_error(claims: list[tuple[Array, Array]]) -> None:
    case = sample(nn.Tanh)
    freed = FreedNetwork.assemble(trace(case.model, case.input_shape))
    t = np.random.default_rng(0).uniform(40.0, 50.0, freed.neurons)
    S = np.diag(np.random.default_rng(1).uniform(900.0, 1000.0, 9)) + 1e-3
    dense.is_form(freed, t, freed.quadratic(t), S)
    (A, error), true = claims[0], exact.lmi(case, t, 0.0)
    true[:9, :9] += exact.exact(S)
    # Two entries of K, each with as many roundings as its layer has inputs, and a sum over all neurons.
    assert_covered(A, error, true, gamma(2 * 9 + freed.neurons))


def test_the_schur_complement_is_within_its_error(claims: list[tuple[Array, Array]]) -> None:
    case = sample()
    freed = FreedNetwork.assemble(trace(case.model, case.input_shape))
    assert freed.input_is_apart
    t, rho = np.random.default_rng(0).uniform(1.0, 2.0, freed.neurons), 31.7
    dense.is_diagonal_form(freed, t, np.array([rho]))
    A = exact.lmi(case, t, 0.0)
    Q = A[9:, :9]
    assert_covered(*claims[0], A[9:, 9:] - Q @ Q.T / Fraction(rho), gamma(2 * (2 * 9 + freed.neurons) + 9))


def test_merges_count_every_tile_and_carry_the_error_of_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_weights(nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Conv2d(1, 1, 2)), 0)
    tiling = Tiling(trace(model, (1, 8, 8)), (2, 2))
    rng = np.random.default_rng(0)
    forms = []
    for patches in tiling.patches:
        G = rng.standard_normal((patches.shape[1], patches.shape[1]))
        forms.append(G @ G.T)
    seen = []
    own = tiles.largest_eigenvalue_bound

    def recorded(G: Array, error: Array) -> float:
        seen.append((G, error))
        return own(G, error)

    monkeypatch.setattr(tiles, "largest_eigenvalue_bound", recorded)
    merges = tiles._merged(tiling, forms, "form")
    joint, error = seen[-1]
    true = exact.exact(np.zeros_like(joint))
    cover = np.zeros((len(forms), len(joint)))
    for j, (shape, S) in enumerate(zip(tiling.shapes, forms, strict=True)):
        for origin in shape.origins:
            local, absolute = tiling.input_entries(shape, origin)
            true[np.ix_(absolute, absolute)] += exact.exact(S[np.ix_(local, local)])
            cover[j, absolute] += 1
    assert_covered(joint, error, true)
    squares = np.array([np.linalg.eigvalsh(S)[-1] for S in forms])
    counts = np.array([len(shape.origins) for shape in tiling.shapes])
    assert merges["sum"] == pytest.approx(math.sqrt(counts @ squares), rel=1e-6)
    assert merges["coverage"] == pytest.approx(math.sqrt((squares @ cover).max()), rel=1e-6)
    assert merges["form"] <= merges["coverage"] <= merges["sum"]


@pytest.mark.parametrize("n", [10, 1000])
@pytest.mark.parametrize("probability", [1e-12, 1e-3])
@pytest.mark.parametrize(("clearance", "lost"), [(0.1, 1.0), (1e-3, 4.0), (1e-3, 1e4)])
def test_what_rounding_leaves_of_a_vector(n: int, probability: float, clearance: float, lost: float) -> None:
    class Form:
        roundings = 500

    form = Form()
    form.n = n  # type: ignore[attr-defined]
    top = 2.001
    found = randomised.course(form, clearance, probability, top, lost)  # type: ignore[arg-type]
    assert found is not None
    vectors, steps, share = found
    # |e| <= 4/c (gamma |M| + gamma_16 m) + 4 gamma_16, of the largest vector; carried on by at most K^2 / 2 of it.
    step = 4 / top * (float(gamma(500)) * lost + float(gamma(16)) * clearance) + 4 * float(gamma(16))
    reached = probability ** (1 / vectors) / math.sqrt(2 * n / math.pi)
    assert share <= reached - step * steps**2 / 2 * randomised._GROWTH
    assert share >= 0.4 * reached
    assert randomised._rate(clearance, top) == pytest.approx(math.acosh(1 + 2 * clearance / top), rel=1e-6)


def test_vectors_that_grow_in_between_prove_nothing() -> None:
    """The error of every step counts on the largest vector of all, not on the last one."""

    class Form:
        """1, 1.3, 0.3."""

        n, diagonal, roundings, device = 1, np.ones(1), 1, torch.device("cpu")
        steps = 0

        def __call__(self, z: torch.Tensor) -> torch.Tensor:
            self.steps += 1
            return 2.3 * z if self.steps == 1 else 1.5 * z

    z = torch.ones(1, 1, dtype=torch.float64)
    for steps in (1, 2):
        growth = randomised._growth(Form(), z, 2.0, 0.0, steps, math.inf)  # type: ignore[arg-type]
        assert growth == pytest.approx(1.3)


def test_failure_probabilities_of_blocks_add_up_to_what_is_said() -> None:
    block = Block(0, 1, "whole", proof="randomised")
    for count in (1, 2, 7):
        plan = Partition("", (block,) * count)
        share = share_of_probability(plan, 1e-6)
        assert 0.9e-6 <= share * count <= 1e-6 * (1 + 1e-12)


def test_a_matrix_norm_carries_the_error_of_its_gram_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    own = matrices.largest_eigenvalue_bound

    def recorded(G: Array, error: Array) -> float:
        seen.append((G, error))
        return own(G, error)

    monkeypatch.setattr(matrices, "largest_eigenvalue_bound", recorded)
    W = np.random.default_rng(0).standard_normal((4, 9))
    for ulps in (0, 3):
        matrices.matrix_norm(W, ulps)
        G, error = seen[-1]
        scaled = np.ldexp(W, -math.frexp(float(np.abs(W).max()))[1])
        F = exact.exact(scaled)
        assert_covered(G, error, F @ F.T)
        lengths = np.linalg.norm(scaled, axis=1)
        assert (error >= float(gamma(9 + 2 * ulps)) * np.outer(lengths, lengths)).all()


def test_norms_of_frequencies_carry_the_error_of_their_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = trace(nn.Conv2d(2, 3, 3, padding=1).double().eval(), (2, 6, 6)).nodes[1].layer
    assert isinstance(layer, Conv2d)
    torus = [convolutions._torus(layer, axis, 6, 6) for axis in (0, 1)]
    found = frequencies.frequency_norm(layer, torus)
    highest = []
    own = frequencies._LargestEigenvalue.cover

    def recorded(self: Any, gram: Any) -> None:
        own(self, gram)
        highest.append(self.bound)

    monkeypatch.setattr(frequencies._LargestEigenvalue, "cover", recorded)
    again = frequencies.frequency_norm(layer, torus)
    assert again == found
    # 64 u for a wave, gamma for the sums over 9 taps, twice that for the Gram matrix: all of the size of its trace.
    scale = math.frexp(float(layer.weight.abs().max()))[1]
    entries = float(layer.weight.abs().sum((2, 3)).square().sum()) * 2.0 ** (-2 * scale)
    square = Fraction(found) ** 2 / Fraction(2) ** (2 * scale)
    assert square >= Fraction(highest[-1]) + (64 * U + gamma(18)) * Fraction(entries)


def test_eigenvalues_of_frequencies_have_room_for_their_factorisation() -> None:
    largest = frequencies._LargestEigenvalue(3)
    G = torch.zeros(1, 6, 6, dtype=torch.float64)
    G[0].fill_diagonal_(1.0)
    needed = float(rump(6, Fraction(6)))
    assert not bool(largest._are_below(G, 1.0 + 0.9 * needed))
    assert bool(largest._are_below(G, 1.0 + 1e-11))


def test_sparse_proofs_of_norms_have_room_for_their_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers.eliminations import elimination_for_norm
    from scipy import sparse as sp

    seen: list[Array] = []
    monkeypatch.setattr(sparse, "factors", lambda lower, diagonal, *rest: bool(seen.append(diagonal)) or True)
    W = sp.csr_array(np.array([[0.5, 0.0], [0.25, 0.75]]))
    for error in (0.0, 1e-9):
        assert sparse.is_norm_at_most(W, 1.3, error, elimination_for_norm(W))
        assert Fraction(float(seen[-1].max())) <= Fraction(1.3) - Fraction(error) - rump(4, 4 * Fraction(1.3))
        G = (W @ W.T).tocsr()
        order = elimination_for_norm(W)
        import dataclasses

        order = dataclasses.replace(order, order=np.arange(2))
        assert sparse.is_gram_at_most(G, 1.3, error, order)
        for i in range(2):
            lowered = Fraction(error) + rump(2, 2 * Fraction(1.3))
            assert Fraction(float(seen[-1][i])) <= Fraction(1.3) - Fraction(float(G[i, i])) - lowered


def test_the_reported_bound_is_above_the_root_of_what_is_proved() -> None:
    for proof in ("dense", "sparse"):
        report = lipguard.certify(sample().model, (9,), DCPConfig(proof=proof))
        assert Fraction(report.bound) ** 2 >= Fraction(float(report.certificate.forms[0][0]))


def test_sparse_proofs_have_room_for_what_was_lost_in_assembling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries are off by gamma of their magnitudes; rows of those bound the 2-norm, their root that of the output."""
    seen: list[Array] = []
    monkeypatch.setattr(sparse, "factors", lambda lower, diagonal, *rest: bool(seen.append(diagonal)) or True)
    for activation in (nn.ReLU, nn.Tanh):
        case = sample(activation)
        network = trace(case.model, case.input_shape)
        form = ScaledForm(network, np.random.default_rng(0).uniform(0.5, 2.0, network.neurons), 1e-4)
        assembled = sparse._assembled(form)
        assert assembled is not None
        _, before, collected = assembled
        assert sparse.is_form_positive_semidefinite(form, HINTS)
        # 9 roundings on the longest path, the slopes, the multiplier, the scales.
        assert collected >= 9 + 6
        rows = float(form.magnitude(torch.ones(1, form.n, dtype=torch.float64)).max())
        assert rows > 10  # it matters
        lost = gamma(collected) * Fraction(rows + math.sqrt(rows) + 1) * Fraction(0.999999)
        needed = lost + rump(len(before), sum(map(Fraction, before.tolist()), Fraction(0)))
        for own, lowered in zip(before, seen[-1], strict=True):
            assert Fraction(float(lowered)) <= Fraction(float(own)) - needed


@pytest.mark.parametrize("ulps", [0, 1, 4, 40])
def test_the_norm_of_a_rounded_scale_covers_the_exact_one(ulps: int) -> None:
    scale = Scale(torch.tensor([0.1, -0.3], dtype=torch.float64), weight_ulps=ulps)
    assert Fraction(layer_norms.layer_norm(scale, (2,), HINTS)) >= Fraction(0.3) * (1 + gamma(ulps))
