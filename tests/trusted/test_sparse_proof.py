"""Sparse proofs against dense ones, exact arithmetic and planted claims."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from helpers import exact
from helpers.claims import matrix, proposed, smallest_eigenvalue, smallest_rho
from helpers.eliminations import elimination_for, elimination_for_norm
from helpers.networks import Sample, networks, with_weights
from hypothesis import assume, given, settings
from numpy.typing import NDArray
from torch import nn

from lipguard.certifying.hints import HINTS
from lipguard.planning.orders import elimination
from lipguard.trusted.lmi.freed import slope_ranges
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs import sparse
from lipguard.trusted.proofs.cholesky import factorisation_error
from lipguard.trusted.proofs.claim import Claim, Means
from lipguard.trusted.proofs.kinds import proves
from lipguard.trusted.reading.trace import trace

Array = NDArray[np.float64]


def is_proved(network: Network, t: Array, rho: float, proof: str = "sparse") -> bool:
    return proves(Claim(t, rho, proof), network, Means(HINTS))


@settings(max_examples=30)
@given(networks(largest=3))
def test_what_is_factored_is_below_the_exact_matrix_by_more_than_rounding(sample: Sample) -> None:
    network = trace(sample.model, sample.input_shape)
    t, rho = proposed(network)
    factored: list[tuple[Any, Array]] = []

    def refuse(lower: Any, diagonal: Array, *_: object) -> bool:
        factored.append((lower, diagonal))
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "factors", refuse)
        assert not is_proved(network, t, rho)
    assume(factored)
    lower, diagonal = factored[0]
    below = lower.toarray()
    gap = bordered(sample, t, rho) - exact.exact(below + below.T + np.diag(diagonal))
    own = np.diag(gap).copy()
    gap[np.diag_indices_from(gap)] = Fraction(0)
    shift = Fraction(factorisation_error(len(diagonal), float(diagonal.sum())))
    assert (own - abs(gap).sum(axis=1) >= shift).all()  # diagonally dominant


def bordered(sample: Sample, t: Array, rho: float) -> NDArray[Any]:
    """D A(rho, t) D with the squares that have a minus sign beside it, exactly but for roots of 60 digits."""
    K, Y = exact.matrices(sample)
    form = ScaledForm(trace(sample.model, sample.input_shape), t, rho)
    alpha, beta = slope_ranges(form.network)
    product = exact.exact(2 * t) * exact.exact(alpha) * exact.exact(beta)
    apart = [i for i, value in enumerate(product) if value < 0]
    rows = [Y, *(root(-product[i]) * K[i : i + 1] for i in apart)]
    D = exact.exact(form.scale)
    extra = np.concatenate(rows) * D
    A = exact.lmi(sample, t, rho) * D[:, None] * D + extra.T @ extra
    return np.block([[A, extra.T], [extra, exact.exact(np.eye(len(extra)))]])


def root(value: Fraction) -> Fraction:
    with localcontext() as context:
        context.prec = 60
        return Fraction((Decimal(value.numerator) / Decimal(value.denominator)).sqrt())


def cnn() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(48, 4)
    )
    return with_weights(model, 0)


SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def claim() -> tuple[Network, Array, float]:
    """A claim that is true by a clearance."""
    network = trace(cnn(), SHAPE)
    t, rho = proposed(network)
    assert smallest_eigenvalue(network, t, rho) > 1e-3
    assert is_proved(network, t, rho)
    return network, t, rho


def test_slopes_that_couple_too_much_are_refused_where_they_cannot_be_written_out(
    claim: tuple[Network, Array, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "_MOST_PRODUCTS", 1000)
    assert is_proved(*claim)
    monkeypatch.setattr(sparse, "_MOST_COLUMNS", 10)
    assert not is_proved(*claim)


def test_the_matrix_is_that_of_the_claim_with_the_output_beside_it(claim: tuple[Network, Array, float]) -> None:
    """Eliminating what was added gives the scaled matrix back."""
    network, t, rho = claim
    form = ScaledForm(network, t, rho)
    assembled = sparse._assembled(form)
    assert assembled is not None
    lower, diagonal, _ = assembled
    whole = lower.toarray() + lower.toarray().T + np.diag(diagonal)
    n = form.n
    np.testing.assert_allclose(
        whole[:n, :n] - whole[:n, n:] @ whole[n:, :n], matrix(network, t, rho), rtol=1e-12, atol=1e-13
    )
    assert np.array_equal(whole[n:, n:], np.eye(len(whole) - n))
    assert lower.nnz < 0.1 * len(whole) ** 2


def test_an_earlier_matrix_of_the_same_pattern_has_no_say(
    claim: tuple[Network, Array, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ordering is kept; the factorisation is not."""
    network, t, rho = claim
    least = smallest_rho(network, t)
    verdicts = [is_proved(network, t, value) for value in (rho, 0.9 * least, rho, 0.9 * least, rho, rho)]
    assert verdicts == [True, False, True, False, True, True]
    monkeypatch.setattr(elimination, "_KEPT", 200.0)
    for width in range(3, 40):  # other patterns push it out
        other = trace(with_weights(nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 1)), 0), (2,))
        own, _ = proposed(other)
        assert is_proved(other, own, 1.001 * smallest_rho(other, own))
    assert sum(len(known.order) for known in elimination._known.values()) <= 200
    assert is_proved(network, t, rho)
    assert not is_proved(network, t, 0.9 * least)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (40, 25), (25, 40), (60, 60)])
def test_norms_are_bounded_closely(shape: tuple[int, int]) -> None:
    W = random_sparse(shape)
    norm, order = float(np.linalg.norm(W.toarray(), 2)), elimination_for_norm(W)
    assert sparse.is_norm_at_most(W, norm * (1 + 1e-9), 0.0, order)
    assert not sparse.is_norm_at_most(W, norm * (1 - 1e-12), 0.0, order)
    assert not sparse.is_norm_at_most(W, 0.5 * norm, 0.0, order)
    assert sparse.is_norm_at_most(W, norm * (1 + 1e-3), 0.9e-3 * norm, order)
    assert not sparse.is_norm_at_most(W, norm * (1 + 1e-3), 1.1e-3 * norm, order)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (40, 25), (60, 60)])
def test_gram_matrices_are_bounded_closely(shape: tuple[int, int]) -> None:
    W = random_sparse(shape)
    G = sp.csr_array(W @ W.T)
    largest, order = float(np.linalg.eigvalsh(G.toarray())[-1]), elimination_for(G)
    assert sparse.is_gram_at_most(G, largest * (1 + 1e-9), 0.0, order)
    assert not sparse.is_gram_at_most(G, largest * (1 - 1e-12), 0.0, order)
    assert sparse.is_gram_at_most(G, largest * (1 + 1e-3), 0.9e-3 * largest, order)
    assert not sparse.is_gram_at_most(G, largest * (1 + 1e-3), 1.1e-3 * largest, order)


def random_sparse(shape: tuple[int, int]) -> Any:
    rng = np.random.default_rng(0)
    dense = np.where(rng.random(shape) < 0.3, rng.standard_normal(shape), 0.0)
    dense[0, 0] = 1.5
    return sp.csr_array(dense)


@pytest.mark.parametrize("bound", [0.0, -1.0, np.nan, np.inf])
def test_norms_without_a_bound_are_not_proved(bound: float) -> None:
    W = random_sparse((5, 7))
    assert not sparse.is_norm_at_most(W, bound, 0.0, elimination_for_norm(W))
    G = sp.csr_array(W @ W.T)
    assert not sparse.is_gram_at_most(G, bound, 0.0, elimination_for(G))


@pytest.mark.parametrize("entry", [np.nan, np.inf])
def test_matrices_that_are_not_finite_have_no_norm(entry: float) -> None:
    W = random_sparse((5, 7))
    G = sp.csr_array(W @ W.T)
    orders = elimination_for_norm(W), elimination_for(G)
    assert not sparse.is_norm_at_most(W, 1e6, entry, orders[0])
    assert not sparse.is_gram_at_most(G, 1e6, entry, orders[1])
    W.data[0] = G.data[0] = entry
    assert not sparse.is_norm_at_most(W, 1e6, 0.0, orders[0])
    assert not sparse.is_gram_at_most(G, 1e6, 0.0, orders[1])
