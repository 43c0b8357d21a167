"""Proposals: against the published optimum, and as outcomes when the solver fails."""

import numpy as np
import pytest
import torch
from torch import nn

from lipguard.certifying.hints import HINTS
from lipguard.proposing.conic import solve as conic
from lipguard.proposing.conic.problem import Problem
from lipguard.proposing.conic.solve import SolverOptions, solve
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.norms.product import product_bounds
from lipguard.trusted.reading.trace import trace


def problem_of(model: nn.Module, shape: tuple[int, ...]) -> tuple[Problem, FreedNetwork]:
    network = trace(model, shape)
    freed = FreedNetwork.assemble(network)
    return Problem.build(network, freed, product_bounds(network, node_norms(network, HINTS))), freed


def small(activation: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), activation, nn.Linear(5, 6), activation, nn.Linear(6, 2)).double().eval()


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2), nn.Sigmoid(), nn.LeakyReLU(-0.5)])
def test_scs_and_clarabel_agree_on_the_optimum(activation: nn.Module) -> None:
    problem, _ = problem_of(small(activation), (4,))
    values = [solve(problem, SolverOptions(name, 1e-5, 20000)).value for name in ("scs", "clarabel")]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_the_coefficients_are_those_of_the_quadratic_form() -> None:
    problem, _ = problem_of(small(nn.LeakyReLU(0.2)), (4,))
    rng = np.random.default_rng(0)
    rho, t, z = 0.7, rng.random(len(problem.K)), rng.standard_normal(problem.size)
    C, c = problem.coefficients()
    matrix = (C @ np.concatenate([[rho], t]) + c).reshape(problem.size, problem.size)
    a, b, y = problem.K @ z, z[problem.n_x :], problem.Y @ z
    expected = rho * z[: problem.n_x] @ z[: problem.n_x] - y @ y
    expected += 2 * t @ ((b - problem.alpha * a) * (b - problem.beta * a))
    assert z @ matrix @ z == pytest.approx(expected, rel=1e-12)
    assert np.allclose(matrix, matrix.T, atol=0)


def test_multipliers_come_back_in_the_units_of_the_network() -> None:
    model = small(nn.ReLU())
    with torch.no_grad():
        model[0].weight *= 1e3
    problem, freed = problem_of(model, (4,))
    proposal = solve(problem, SolverOptions("scs", 1e-4, 20000))
    A = freed.quadratic(proposal.multipliers)
    A[np.arange(4), np.arange(4)] += (proposal.value * 1.001) ** 2
    scale = np.abs(np.diag(A)) ** -0.5
    assert np.linalg.eigvalsh(scale[:, None] * A * scale)[0] > -1e-3


def test_an_input_wider_than_its_readers_is_compressed_without_changing_the_optimum() -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(40, 3), nn.ReLU(), nn.Linear(3, 2)).double().eval()
    problem, freed = problem_of(wide, (40,))
    assert (freed.n_x, problem.n_x, problem.size) == (40, 3, 6)
    Q, R = torch.linalg.qr(wide[0].weight.detach().T)
    narrow = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), wide[2]).double().eval()
    with torch.no_grad():
        narrow[0].weight.copy_(R.T)
    assert Q.shape == (40, 3)
    options = SolverOptions("scs", 1e-5, 20000)
    assert solve(problem, options).value == pytest.approx(solve(problem_of(narrow, (3,))[0], options).value, rel=1e-4)


def test_a_warm_start_saves_iterations() -> None:
    problem, _ = problem_of(small(nn.ReLU()), (4,))
    options = SolverOptions("scs", 1e-4, 20000)
    cold = solve(problem, options)
    warm = solve(problem, options, cold.state)
    assert warm.iterations < cold.iterations
    assert warm.value == pytest.approx(cold.value, rel=1e-3)


def test_a_state_of_another_shape_is_ignored() -> None:
    problem, _ = problem_of(small(nn.ReLU()), (4,))
    options = SolverOptions("scs", 1e-3, 5000)
    odd = {name: np.ones(3) for name in ("x", "y", "s")}
    assert solve(problem, options, odd).value == solve(problem, options).value


def test_too_few_iterations_are_reported_as_inaccurate() -> None:
    problem, _ = problem_of(small(nn.ReLU()), (4,))
    proposal = solve(problem, SolverOptions("scs", 1e-6, 2))
    assert proposal.status.is_inaccurate
    assert proposal.multipliers is not None


@pytest.mark.parametrize("error", [ValueError("bad"), ArithmeticError("bad"), np.linalg.LinAlgError("bad")])
def test_a_solver_that_raises_is_an_outcome(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(conic.scs, "SCS", broken)
    proposal = solve(problem_of(small(nn.ReLU()), (4,))[0], SolverOptions("scs", 1e-3, 100))
    assert proposal.multipliers is None
    assert proposal.status == f"failed ({type(error).__name__}: bad)"


STATUSES = {
    1: "solved", 2: "inaccurate (text)", -1: "failed (text)", -2: "failed (text)", -7: "failed (text)",
    "optimal": "solved", "optimal_inaccurate": "inaccurate (tolerance not reached)", "infeasible": "failed (text)",
    "user_limit": "failed (text)",
}  # fmt: skip


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_of_a_solver_is_translated(status: int | str) -> None:
    assert conic.outcome_of(status, "text") == STATUSES[status]


def test_a_solver_that_returns_nan_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost:
        def __init__(self, data: dict[str, np.ndarray], *_: object, **__: object) -> None:
            self.sizes = len(data["c"]), len(data["b"])

        def solve(self, **_: object) -> dict[str, object]:
            n, m = self.sizes
            info = {"status_val": 1, "status": "solved", "iter": 1}
            return {"x": np.full(n, np.nan), "y": np.zeros(m), "s": np.zeros(m), "info": info}

    monkeypatch.setattr(conic.scs, "SCS", Lost)
    assert solve(problem_of(small(nn.ReLU()), (4,))[0], SolverOptions("scs", 1e-3, 100)).multipliers is None
