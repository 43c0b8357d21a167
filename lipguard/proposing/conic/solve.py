"""LipSDP of one block by cvxpy: SCS or Clarabel. The only module that imports cvxpy or scs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import scs
from numpy.typing import NDArray

from lipguard.proposing.conic.problem import Problem
from lipguard.proposing.outcome import NOT_FINITE, SOLVED, End, Outcome
from lipguard.proposing.proposal import Proposal

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SolverOptions:
    """What a solver may spend.

    Args:
        solver: ``"scs"`` or ``"clarabel"``.
        tolerance: relative accuracy of the bound that is asked for.
        max_iterations: iterations after which it returns what it has.
        max_seconds: the same in seconds, or None.
    """

    solver: str
    tolerance: float
    max_iterations: int
    max_seconds: float | None = None


def solve(problem: Problem, options: SolverOptions, state: Mapping[str, Array] | None = None) -> Proposal:
    """Solve one block. Every failure is an outcome, not an exception."""
    try:
        return _solve(problem, options, dict(state or {}))
    except (cp.error.SolverError, cp.error.DCPError, ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        return Proposal.without_multipliers(Outcome(End.FAILED, f"{type(error).__name__}: {error}"))


def _solve(problem: Problem, options: SolverOptions, state: dict[str, Array]) -> Proposal:
    C, c = problem.coefficients()
    variable = cp.Variable(C.shape[1], nonneg=True)  # (rho, t)
    form = cp.reshape(  # type: ignore[attr-defined]
        C @ variable + c, (problem.size, problem.size), order="C"
    )
    model = cp.Problem(cp.Minimize(variable[0]), [form >> 0])
    if options.solver == "clarabel":
        return _clarabel(problem, model, variable, options)
    data, _, _ = model.get_problem_data(cp.SCS)
    arguments = {name: data[name] for name in ("A", "b", "c")}
    cone = {"z": int(data["dims"].zero), "l": int(data["dims"].nonneg), "s": list(map(int, data["dims"].psd))}
    # The bound is the square root of rho; multipliers that are off by more than this need a visible repair.
    accuracy = options.tolerance / 10
    settings = {"eps_abs": accuracy, "eps_rel": accuracy, "max_iters": options.max_iterations, "verbose": False}
    if options.max_seconds is not None:
        settings["time_limit_secs"] = max(options.max_seconds, 1e-3)
    shapes = {"x": data["c"].shape, "y": data["b"].shape, "s": data["b"].shape}
    warm = {name: np.array(state[name]) for name in shapes if name in state and state[name].shape == shapes[name]}
    if len(warm) < len(shapes):
        warm = {}
    result = scs.SCS(arguments, cone, **settings).solve(warm_start=bool(warm), **warm)
    info = result["info"]
    solution = {name: np.asarray(result[name]) for name in shapes}
    outcome = outcome_of(info["status_val"], str(info["status"]))
    return _proposal(problem, solution["x"], outcome, solution, int(info["iter"]))


def _clarabel(problem: Problem, model: cp.Problem, variable: cp.Variable, options: SolverOptions) -> Proposal:
    limits = {} if options.max_seconds is None else {"time_limit": options.max_seconds}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")  # the status says it
        model.solve(  # type: ignore[no-untyped-call]
            solver=cp.CLARABEL, max_iter=min(options.max_iterations, 200), **limits
        )
    x = np.full(variable.size, np.nan) if variable.value is None else np.asarray(variable.value)
    iterations = int(model.solver_stats.num_iters or 0)
    return _proposal(problem, x, outcome_of(model.status, str(model.status)), {}, iterations)


def outcome_of(status: int | str, words: str) -> Outcome:
    """What a solver says of its end: solved, stopped early with a usable point, or without one.

    Args:
        status: SCS's number (1, 2, or another one), or cvxpy's name for what Clarabel says.
        words: the solver's own.
    """
    if status in (1, cp.OPTIMAL):
        return SOLVED
    if status == cp.OPTIMAL_INACCURATE:
        return Outcome(End.INACCURATE, "tolerance not reached")
    return Outcome(End.INACCURATE if status == 2 else End.FAILED, words)


def _proposal(problem: Problem, x: Array, outcome: Outcome, state: Mapping[str, Array], iterations: int) -> Proposal:
    if outcome.is_failed or not np.isfinite(x).all():
        return Proposal.without_multipliers(outcome if outcome.is_failed else NOT_FINITE)
    value = float(np.sqrt(max(x[0], 0.0))) * problem.output_unit
    return Proposal(np.maximum(x[1:], 0.0)[problem.ties] * problem.unit, value, outcome, state, iterations)
