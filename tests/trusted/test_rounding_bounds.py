"""What floating point lost in K, Y and the quadratic form stays below the bounds that the proofs rely on."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from helpers.exact import exact, matrices
from helpers.networks import Sample, networks, with_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from lipguard.trusted import layers
from lipguard.trusted.lmi.freed import FreedNetwork, path_roundings
from lipguard.trusted.reading.trace import trace

SMALL = settings(max_examples=30)


def gamma(n: int) -> Fraction:
    """n u / (1 - n u), Higham's bound of the relative error of n roundings."""
    return Fraction(n, 2**53 - n)


def assert_within(found: NDArray[Any], expected: NDArray[Any], bound: NDArray[Any], roundings: int) -> None:
    # The bound is computed in floating point as well: it is less than twice of what it should be, and more than half.
    assert found.shape == expected.shape
    assert (abs(exact(found) - expected) <= gamma(roundings) * 2 * exact(bound)).all()
    assert (abs(expected) <= 2 * exact(bound)).all()


@SMALL
@given(networks(largest=4))
def test_matrices_are_within_their_bounds_of_the_exact_ones(sample: Sample) -> None:
    freed = FreedNetwork.assemble(trace(sample.model, sample.input_shape))
    K, Y = matrices(sample)
    assert_within(freed.K, K, freed.K_abs, freed.roundings)
    assert_within(freed.Y, Y, freed.Y_abs, freed.roundings)


@SMALL
@given(networks(largest=3), st.integers(0, 99))
def test_the_form_is_within_its_bound_of_the_exact_one(sample: Sample, seed: int) -> None:
    freed = FreedNetwork.assemble(trace(sample.model, sample.input_shape))
    K, Y = matrices(sample)
    t = np.random.default_rng(seed).exponential(size=freed.neurons) ** 4
    T, alpha, beta = exact(t)[:, None], exact(freed.alpha)[:, None], exact(freed.beta)[:, None]
    b = np.full_like(K, Fraction(0))
    b[:, freed.n_x :][np.diag_indices(freed.neurons)] = Fraction(1)
    form = 2 * (b - alpha * K).T @ (T * (b - beta * K)) - Y.T @ Y if freed.neurons else -Y.T @ Y
    form = (form + form.T) / 2
    assert_within(freed.quadratic(t), form, freed.quadratic_abs(t), freed.form_roundings)


@SMALL
@given(networks(), st.integers(0, 99))
def test_the_hidden_blocks_are_those_of_the_form(sample: Sample, seed: int) -> None:
    freed = FreedNetwork.assemble(trace(sample.model, sample.input_shape))
    t = np.random.default_rng(seed).exponential(size=freed.neurons)
    A, A_abs, n = freed.quadratic(t), freed.quadratic_abs(t), freed.n_x
    if not freed.input_is_apart:
        assert A_abs[:n, :n].any()
        return
    assert not A_abs[:n, :n].any()
    for (Q, R), whole in ((freed.hidden(t), A), (freed.hidden_abs(t), A_abs)):
        np.testing.assert_allclose(Q, whole[n:, :n], rtol=1e-13, atol=0)
        np.testing.assert_allclose(R, whole[n:, n:], rtol=1e-13, atol=1e-13 * A_abs.max(initial=0))


ROUNDINGS: list[tuple[nn.Module, tuple[int, ...], int]] = [
    (nn.Linear(7, 2), (7,), 7),
    (nn.Conv2d(4, 2, (2, 3), groups=2), (4, 5, 5), 2 * 2 * 3),
    (nn.AvgPool2d((2, 3)), (2, 5, 5), 2 * 3 + 1),  # and the weight 1/6
    (nn.BatchNorm1d(3), (3,), 1 + 3),  # a sum, a root and a quotient make the scale
    (nn.Flatten(), (2, 2), 0),
]


@pytest.mark.parametrize(("model", "shape", "least"), ROUNDINGS, ids=str)
def test_layers_count_every_operation_on_one_output(model: nn.Module, shape: tuple[int, ...], least: int) -> None:
    layer = trace(with_weights(model, 0), shape).nodes[1].layer
    assert least <= layer.roundings() <= least + 2


def test_roundings_add_up_between_activations() -> None:
    assert layers.Add().roundings() == 1
    model = with_weights(nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)), 0)
    network = trace(model, (7,))
    assert FreedNetwork.assemble(network).roundings == 7 + 5
    assert max(path_roundings(network)[1]) == 5 + 4
