"""The form that two passes apply against the matrix written out, and against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from helpers.claims import proposed
from helpers.exact import exact, matrices
from helpers.networks import ACTIVATIONS, Residual, Sample, networks, with_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from lipguard.proposing.feasible.lanczos import smallest_eigenvectors
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.reading.trace import trace

Array = NDArray[np.float64]


def multipliers(neurons: int, seed: int) -> Array:
    """Of very different sizes, and a few zeros."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(neurons) < 0.15, 0.0, rng.exponential(size=neurons) ** 4)


def form_of(sample: Sample, seed: int, rho: float = 2.5) -> tuple[ScaledForm, FreedNetwork, Array]:
    network = trace(sample.model, sample.input_shape)
    freed = FreedNetwork.assemble(network)
    t = multipliers(freed.neurons, seed)
    return ScaledForm(network, t, rho), freed, t


def scaled(form: ScaledForm, freed: FreedNetwork, A: Array, rho: float) -> Array:
    """The matrix A with rho in its input block, between two copies of the form's own D."""
    A = A.copy()
    A[: freed.n_x, : freed.n_x] += rho * np.eye(freed.n_x)
    return form.scale[:, None] * A * form.scale


def applied(function: Any, n: int) -> Array:
    """The matrix that a function multiplies rows by, from all unit vectors."""
    return function(torch.eye(n, dtype=torch.float64)).T.numpy()  # type: ignore[no-any-return]


@given(networks(), st.integers(0, 99), st.sampled_from([1e-6, 2.5, 1e8]))
def test_it_is_the_scaled_matrix(sample: Sample, seed: int, rho: float) -> None:
    form, freed, t = form_of(sample, seed, rho)
    assert form.n == freed.n_x + freed.neurons == len(form.diagonal)
    expected = scaled(form, freed, freed.quadratic(t), rho)
    error = 1e-12 * scaled(form, freed, freed.quadratic_abs(t), rho)
    assert (np.abs(applied(form, form.n) - expected) <= error).all()


@given(networks(), st.integers(0, 99))
def test_the_scale_makes_a_unit_diagonal_of_rho_and_multipliers(sample: Sample, seed: int) -> None:
    form, freed, t = form_of(sample, seed)
    weights = np.concatenate([np.full(freed.n_x, 2.5), 2 * t])
    np.testing.assert_allclose(form.diagonal, form.scale**2 * weights, rtol=1e-15)
    np.testing.assert_allclose(form.diagonal, np.where(weights > 0, 1.0, 0.0), rtol=1e-15)
    assert (form.scale > 0).all()


@given(networks(), st.integers(0, 99))
def test_the_magnitude_is_that_of_all_terms(sample: Sample, seed: int) -> None:
    form, freed, t = form_of(sample, seed)
    magnitude = applied(form.magnitude, form.n)
    assert (np.abs(applied(form, form.n)) <= magnitude * (1 + 1e-12)).all()
    bound = scaled(form, freed, freed.quadratic_abs(t), 2.5)
    assert (magnitude <= bound * (1 + 1e-12)).all()
    if (freed.alpha * freed.beta >= 0).all():  # else |alpha + beta| is less than |alpha| + |beta|
        np.testing.assert_allclose(magnitude, bound, rtol=1e-12)


@given(networks(), st.integers(0, 99))
def test_what_is_lost_is_at_most_the_magnitude(sample: Sample, seed: int) -> None:
    form, _, _ = form_of(sample, seed)
    lost, magnitude = applied(form.lost, form.n), applied(form.magnitude, form.n)
    assert (lost >= 0).all()
    assert (lost <= magnitude * (1 + 1e-12)).all()


@settings(max_examples=40)
@given(networks(largest=4), st.integers(0, 99))
def test_rounding_stays_below_what_is_said_to_be_lost(sample: Sample, seed: int) -> None:
    form, freed, t = form_of(sample, seed)
    z = np.random.default_rng(seed + 1).standard_normal(form.n)
    expected = exact_product(sample, form, freed, t, z)
    found = form(torch.from_numpy(z)[None])[0].numpy()
    lost = form.lost(torch.from_numpy(np.abs(z))[None])[0].numpy()
    gamma = Fraction(form.roundings, 2**53 - form.roundings)
    # What is lost is computed in floating point as well: it is more than half of what it should be.
    for one, other, bound in zip(found, expected, lost, strict=True):
        assert abs(Fraction(float(one)) - other) <= 2 * gamma * Fraction(float(bound))


def exact_product(sample: Sample, form: ScaledForm, freed: FreedNetwork, t: Array, z: Array) -> NDArray[Any]:
    """D A(rho, t) D z with fractions: half the gradient of the quadratic form, term by term."""
    K, Y = matrices(sample)
    D, T, alpha, beta = (exact(values) for values in (form.scale, t, freed.alpha, freed.beta))
    v = D * exact(z)
    a, b = K @ v, v[freed.n_x :]
    total = -Y.T @ (Y @ v) + K.T @ (2 * T * alpha * beta * a - T * (alpha + beta) * b)
    total[: freed.n_x] += Fraction(2.5) * v[: freed.n_x]
    total[freed.n_x :] += 2 * T * b - T * (alpha + beta) * a
    return D * total  # type: ignore[no-any-return]


def test_rows_are_independent_of_each_other() -> None:
    form, _, _ = form_of(residual(nn.LeakyReLU(0.2)), 3)
    z = torch.randn(5, form.n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for rows, row in zip(form(z), z, strict=True):
        torch.testing.assert_close(rows[None], form(row[None]), rtol=1e-13, atol=1e-13)
    assert not z.requires_grad
    assert not form(z).requires_grad


def residual(activation: nn.Module) -> Sample:
    body = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), activation, nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))
    model = nn.Sequential(Residual(body, nn.Identity()), activation, nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(8, 3))
    return Sample(with_weights(model, 1), (2, 3, 3))


@pytest.mark.parametrize("activation", [make() for make in ACTIVATIONS], ids=str)
def test_slopes_of_either_sign_meet_in_residual_networks(activation: nn.Module) -> None:
    form, freed, t = form_of(residual(activation), 5)
    B = applied(form, form.n)
    np.testing.assert_allclose(B, scaled(form, freed, freed.quadratic(t), 2.5), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(B, B.T, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("model", [nn.Identity(), nn.Linear(3, 2), nn.ReLU(), nn.Sequential(nn.Tanh(), nn.ELU(-0.5))])
def test_networks_without_weights_or_activations(model: nn.Module) -> None:
    form, freed, t = form_of(Sample(with_weights(model, 0), (3,)), 0)
    np.testing.assert_allclose(
        applied(form, form.n), scaled(form, freed, freed.quadratic(t), 2.5), rtol=1e-13, atol=1e-15
    )


def test_all_multipliers_zero_leave_the_output_alone() -> None:
    sample = Sample(with_weights(nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.5), nn.Linear(4, 2)), 0), (3,))
    form = ScaledForm(trace(sample.model, (3,)), np.zeros(4), 4.0)
    Y = sample.model[2].weight.detach().numpy()  # type: ignore[index]
    assert np.array_equal(form.scale, [0.5] * 3 + [1.0] * 4)
    expected = np.block([[np.eye(3), np.zeros((3, 4))], [np.zeros((4, 3)), -Y.T @ Y]])
    np.testing.assert_allclose(applied(form, 7), expected, rtol=1e-14, atol=0)


def chain(seed: int) -> ScaledForm:
    """200 variables, with multipliers that are nearly feasible."""
    layers = [layer for _ in range(9) for layer in (nn.Linear(20, 20), nn.LeakyReLU(0.1))]
    network = trace(with_weights(nn.Sequential(*layers, nn.Linear(20, 5)), seed), (20,))
    t, rho = proposed(network, 0.02)
    return ScaledForm(network, t, rho)


@pytest.mark.parametrize("seed", range(3))
def test_the_smallest_eigenvalues_and_their_vectors(seed: int) -> None:
    form = chain(seed)
    B = applied(form, form.n)
    exact = np.linalg.eigvalsh((B + B.T) / 2)
    values, vectors, residual = smallest_eigenvectors(form, form.n)
    np.testing.assert_allclose(values.numpy(), exact[: len(values)], atol=1e-9)
    assert residual < 1e-9
    torch.testing.assert_close(form(vectors), values[:, None] * vectors, atol=1e-7, rtol=0)
    rough, _, left = smallest_eigenvectors(form, 12)
    assert rough[0] >= exact[0] - 1e-12  # from inside the spectrum
    assert np.abs(exact - float(rough[0])).min() <= left * (1 + 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eigenvectors_of_a_form_that_was_a_little_different_are_a_better_start(dtype: torch.dtype) -> None:
    form = chain(0)
    _, near, _ = smallest_eigenvectors(form, form.n)
    changed = form.t * np.random.default_rng(0).uniform(1, 1.001, len(form.t))
    later = ScaledForm(form.network, changed, form.rho, dtype=dtype)
    exact = np.linalg.eigvalsh(applied(ScaledForm(form.network, changed, form.rho), form.n))[0]
    chance, known = (float(smallest_eigenvectors(later, 12, near=start)[0][0]) for start in (None, near))
    assert known - exact < 0.5 * (chance - exact)
    assert known >= exact - 1e-5
