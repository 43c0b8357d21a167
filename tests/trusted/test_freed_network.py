"""K, Y and the quadratic form against the torch model, by autograd and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.freed import jacobians, record
from helpers.networks import Residual, Sample, networks, with_weights
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from lipguard.trusted.lmi.freed import FreedNetwork, propagate
from lipguard.trusted.reading.trace import trace

Array = NDArray[np.float64]


def assemble(sample: Sample) -> FreedNetwork:
    return FreedNetwork.assemble(trace(sample.model, sample.input_shape))


def multipliers(freed: FreedNetwork, seed: int) -> Array:
    return np.random.default_rng(seed).exponential(size=freed.neurons)


@given(networks())
def test_matrices_are_the_jacobians_of_the_freed_model(sample: Sample) -> None:
    freed = assemble(sample)
    K, Y = jacobians(sample)
    np.testing.assert_allclose(freed.K, K, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(freed.Y, Y, rtol=1e-11, atol=1e-11)
    found = record(sample, torch.zeros(sample.input_shape, dtype=torch.float64))
    assert np.array_equal(freed.alpha, found.alpha)
    assert np.array_equal(freed.beta, found.beta)
    assert freed.n_x == int(np.prod(sample.input_shape))
    assert freed.neurons == len(found.pre)


@given(networks())
def test_neurons_read_what_comes_before_them_only(sample: Sample) -> None:
    freed = assemble(sample)
    assert not np.triu(freed.K[:, freed.n_x :]).any()


@given(networks())
def test_magnitudes_bound_the_entries(sample: Sample) -> None:
    freed = assemble(sample)
    assert (np.abs(freed.K) <= freed.K_abs * (1 + 1e-14)).all()
    assert (np.abs(freed.Y) <= freed.Y_abs * (1 + 1e-14)).all()
    t = multipliers(freed, 0)
    assert (np.abs(freed.quadratic(t)) <= freed.quadratic_abs(t) * (1 + 1e-13)).all()


def test_magnitudes_do_not_cancel_where_paths_do() -> None:
    model = with_weights(Residual(nn.Linear(2, 2, bias=False), nn.Identity()), 0)
    with torch.no_grad():
        model.body.weight.copy_(-torch.eye(2))
    freed = assemble(Sample(model, (2,)))
    assert not freed.Y.any()
    np.testing.assert_array_equal(freed.Y_abs, 2 * np.eye(2))


@given(networks(), st.integers(0, 99))
def test_the_quadratic_form_is_the_lmi_at_any_point(sample: Sample, seed: int) -> None:
    freed = assemble(sample)
    t = multipliers(freed, seed)
    z = np.random.default_rng(seed + 1).standard_normal(freed.n_x + freed.neurons)
    network = trace(sample.model, sample.input_shape)
    x, rest = torch.from_numpy(z[: freed.n_x]).reshape(1, *sample.input_shape), torch.from_numpy(z[freed.n_x :])
    terms, taken = [], 0

    def free(i: int, a: Tensor) -> Tensor:
        nonlocal taken
        layer = network.nodes[i].layer
        b = rest[taken : taken + a.numel()].reshape(a.shape)
        own = torch.from_numpy(t[taken : taken + a.numel()]).reshape(a.shape)
        terms.append(float((2 * own * (b - layer.alpha * a) * (b - layer.beta * a)).sum()))  # type: ignore[attr-defined]
        taken += a.numel()
        return b

    y = propagate(network, x, free)
    expected, A = sum(terms) - float(y.square().sum()), freed.quadratic(t)
    size = float(np.abs(z) @ freed.quadratic_abs(t) @ np.abs(z))
    assert float(z @ A @ z) == pytest.approx(expected, rel=0, abs=1e-12 * size)
    assert np.array_equal(A, A.T) or np.allclose(A, A.T, rtol=1e-13, atol=0)


@given(networks(), st.integers(0, 99))
def test_pairs_of_inputs_lie_on_the_right_side_of_the_form(sample: Sample, seed: int) -> None:
    """For z = (x - y, b(x) - b(y)): z'Az = -|f(x) - f(y)|^2 + 2 sum t (b - alpha a)(b - beta a), the sum <= 0."""
    freed = assemble(sample)
    t = multipliers(freed, seed)
    A = freed.quadratic(t)
    x, y = sample.inputs(2, seed)
    one, other = record(sample, x), record(sample, y)
    b, a = (one.post - other.post).numpy(), (one.pre - other.pre).numpy()
    z = np.concatenate([(x - y).flatten().numpy(), b])
    np.testing.assert_allclose(freed.K @ z, a, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(z).max(initial=0)))
    sector = float(2 * (t * (b - one.alpha * a) * (b - one.beta * a)).sum())
    moved = float((one.output - other.output).square().sum())
    size = float(np.abs(z) @ freed.quadratic_abs(t) @ np.abs(z))
    assert sector <= 1e-12 * size
    assert float(z @ A @ z) == pytest.approx(sector - moved, rel=0, abs=1e-11 * size)


def test_more_columns_than_are_probed_at_once() -> None:
    sample = Sample(with_weights(nn.Sequential(nn.Linear(2, 600), nn.ReLU(), nn.Linear(600, 1)), 0), (2,))
    freed = assemble(sample)
    first, last = sample.model[0].weight, sample.model[2].weight  # type: ignore[index]
    expected = np.zeros((600, 602))
    expected[:, :2] = first.detach().numpy()
    np.testing.assert_array_equal(freed.K, expected)
    np.testing.assert_array_equal(freed.Y[:, 2:], last.detach().numpy())
    assert not freed.Y[:, :2].any()


@pytest.mark.parametrize(
    ("model", "neurons"),
    [(nn.Linear(3, 2), 0), (nn.Identity(), 0), (nn.ReLU(), 3), (nn.Sequential(nn.Tanh(), nn.Sigmoid()), 6)],
    ids=str,
)
def test_networks_without_weights_or_activations(model: nn.Module, neurons: int) -> None:
    sample = Sample(with_weights(model, 0), (3,))
    freed = assemble(sample)
    K, Y = jacobians(sample)
    assert freed.neurons == neurons
    np.testing.assert_array_equal(freed.K, K)
    np.testing.assert_array_equal(freed.Y, Y)
