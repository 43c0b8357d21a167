"""Proofs of blocks: both routes of the scalar proof, and forms against sampled differences of the network."""

import numpy as np
import pytest
import torch
from torch import nn

from lipguard.proposing.feasible import schur
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.proofs import dense, tiles
from lipguard.trusted.reading.trace import trace


def network_and_multipliers(activation: nn.Module) -> tuple[nn.Module, FreedNetwork, np.ndarray]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 4), activation, nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    return model, FreedNetwork.assemble(trace(model, (7,))), np.repeat([2.0, 0.7], [4, 5])


def full_matrix_proof(freed: FreedNetwork, t: np.ndarray, rho: float) -> bool:
    return dense.is_form(freed, t, freed.quadratic(t), rho * np.eye(freed.n_x))


@pytest.mark.parametrize("relative", [1e-3, 1e-6, 1e-9, -1e-9, -1e-6, -1e-3])
def test_the_schur_complement_proves_what_the_full_matrix_proves(relative: float) -> None:
    _, freed, t = network_and_multipliers(nn.Tanh())
    assert freed.input_is_apart
    rho = schur.form_norm(freed, t) * (1 + relative)
    assert dense.is_diagonal_form(freed, t, np.array([rho])) == full_matrix_proof(freed, t, rho) == (relative > 0)


def test_an_input_that_meets_a_leaky_activation_is_not_apart() -> None:
    _, freed, t = network_and_multipliers(nn.LeakyReLU(0.1))
    assert not freed.input_is_apart
    rho = schur.form_norm(freed, t)
    assert full_matrix_proof(freed, t, rho * (1 + 1e-9))
    assert not full_matrix_proof(freed, t, rho * (1 - 1e-9))


def test_the_hidden_blocks_are_those_of_the_full_matrix() -> None:
    _, freed, t = network_and_multipliers(nn.Tanh())
    for (Q, R), A in ((freed.hidden(t), freed.quadratic(t)), (freed.hidden_abs(t), freed.quadratic_abs(t))):
        assert np.allclose(A[7:, :7], Q, rtol=1e-14, atol=0)
        assert np.allclose(A[7:, 7:], R, rtol=1e-13, atol=1e-15)
        assert not A[:7, :7].any()


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.1), nn.Sigmoid()])
def test_a_proved_form_holds_for_differences_of_the_network(activation: nn.Module) -> None:
    model, freed, t = network_and_multipliers(activation)
    S = tiles.proved_form(freed, t, 1e-10)
    assert S is not None
    generator = torch.Generator().manual_seed(1)
    u, v = (3 * torch.randn(2000, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        moved = (model(u) - model(v)).square().sum(1).numpy()
    d = (u - v).numpy()
    assert (moved <= np.einsum("ni,ij,nj->n", d, S, d) * (1 + 1e-12)).all()
    assert np.linalg.eigvalsh(S)[-1] <= schur.form_norm(freed, t) * (1 + 1e-8)


def test_a_form_below_the_schur_complement_is_refused() -> None:
    _, freed, t = network_and_multipliers(nn.ReLU())
    S = tiles.proved_form(freed, t, 0.0)
    low = dense.numerical_form(freed, freed.quadratic(t))
    assert low is not None
    low -= 1e-6 * np.eye(7) * np.linalg.eigvalsh(low)[-1]
    assert not dense.is_form(freed, t, freed.quadratic(t), low)
    assert S is None or np.linalg.eigvalsh(S - low)[0] > 0


def test_multipliers_that_leave_no_form_are_an_answer_not_an_error() -> None:
    _, freed, t = network_and_multipliers(nn.ReLU())
    assert schur.form_norm(freed, 1e-3 * t) == np.inf
    assert tiles.proved_form(freed, 1e-3 * t, 1e-3) is None
    assert schur.form_norm(freed, np.full_like(t, np.nan)) == np.inf
