"""The matrix proofs against exact rational arithmetic and planted failures."""

from fractions import Fraction

import numpy as np
import pytest
from helpers import exact

from lipguard.trusted.proofs.cholesky import is_positive_semidefinite, largest_eigenvalue_bound, minus


def random_gram(rng: np.random.Generator, n: int, rank: int) -> np.ndarray:
    W = rng.standard_normal((n, rank))
    return W @ W.T


@pytest.mark.parametrize("seed", range(40))
def test_nothing_that_rational_arithmetic_refutes_is_accepted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9))
    A = random_gram(rng, n, n) + np.eye(n) * 10.0 ** rng.uniform(-18, 0)
    # Move the smallest eigenvalue to within rounding of zero, on either side.
    A -= np.eye(n) * (np.linalg.eigvalsh(A)[0] + 10.0 ** rng.uniform(-18, -10) * rng.choice([-1, 1]))
    A = (A + A.T) / 2
    if is_positive_semidefinite(A, np.zeros_like(A)):
        assert exact.is_positive_semidefinite(A)


def test_clearly_positive_matrices_are_accepted_whatever_their_scale() -> None:
    rng = np.random.default_rng(0)
    A = random_gram(rng, 30, 40) + np.eye(30)
    scales = np.exp2(rng.integers(-90, 90, 30).astype(float))
    assert is_positive_semidefinite(scales[:, None] * A * scales, np.zeros_like(A))


@pytest.mark.parametrize("relative", [1e-6, 1e-9, 1e-11])
def test_a_planted_negative_eigenvalue_is_refused(relative: float) -> None:
    rng = np.random.default_rng(1)
    Q, _ = np.linalg.qr(rng.standard_normal((50, 50)))
    values = np.linspace(1, 2, 50)
    values[17] = -relative
    A = (Q * values) @ Q.T
    assert not is_positive_semidefinite((A + A.T) / 2, np.zeros_like(A))


def test_the_error_matrix_counts() -> None:
    A = np.array([[1.0, 0.999], [0.999, 1.0]])
    assert is_positive_semidefinite(A, np.full((2, 2), 1e-5))
    assert not is_positive_semidefinite(A, np.full((2, 2), 1e-3))


@pytest.mark.parametrize("entry", [np.nan, np.inf, -np.inf])
def test_matrices_that_are_not_finite_are_refused(entry: float) -> None:
    A = np.eye(3)
    A[0, 2] = A[2, 0] = entry
    assert not is_positive_semidefinite(A, np.zeros_like(A))
    assert not is_positive_semidefinite(np.eye(3), np.abs(A) - np.eye(3) * 0.5)


def test_entries_near_the_ends_of_the_exponent_range_are_refused_rather_than_scaled() -> None:
    assert not is_positive_semidefinite(np.diag([1e-290, 1.0]), np.zeros((2, 2)))


@pytest.mark.parametrize("n", [1, 2, 30, 450])
def test_the_largest_eigenvalue_is_bounded_from_above_and_closely(n: int) -> None:
    G = random_gram(np.random.default_rng(n), n, 2 * n)
    bound = largest_eigenvalue_bound(G, np.zeros_like(G))
    top = np.linalg.eigvalsh(G)[-1]
    assert top <= bound <= top * (1 + 1e-8)
    if n < 10:
        assert exact.is_positive_semidefinite(np.diag([bound] * n) - G)


def test_the_largest_eigenvalue_bound_covers_every_matrix_within_the_error() -> None:
    rng = np.random.default_rng(3)
    G = random_gram(rng, 12, 20)
    error = np.full_like(G, 1e-4)
    bound = largest_eigenvalue_bound(G, error)
    top = np.linalg.eigh(G)[1][:, -1]
    worst = G + 1e-4 * np.sign(np.outer(top, top))
    assert np.linalg.eigvalsh(worst)[-1] <= bound


def test_eigenvalues_of_zero_and_of_huge_matrices() -> None:
    assert largest_eigenvalue_bound(np.zeros((3, 3)), np.zeros((3, 3))) == 0
    assert largest_eigenvalue_bound(np.full((2, 2), 1e308), np.zeros((2, 2))) == np.inf


def test_minus_carries_the_error_of_its_subtraction() -> None:
    G, bound = np.array([[0.1]]), 0.3
    A, error = minus(bound, G, np.zeros((1, 1)))
    expected = Fraction(bound) - Fraction(float(G[0, 0]))
    assert abs(Fraction(float(A[0, 0])) - expected) <= Fraction(float(error[0, 0]))
