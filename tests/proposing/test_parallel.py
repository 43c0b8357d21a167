"""Solves side by side give what solves in a row give; what a deadline or a dead worker cuts off is an outcome."""

import dataclasses
import os
import signal
import time

import numpy as np
import pytest
import torch
from torch import nn

import lipguard
from lipguard import DCPConfig
from lipguard.certifying.hints import HINTS
from lipguard.errors import ConfigError
from lipguard.proposing import processes as executing
from lipguard.proposing.conic import jobs as parallel
from lipguard.proposing.conic.jobs import Job, solve_all
from lipguard.proposing.conic.problem import Problem
from lipguard.proposing.conic.solve import SolverOptions
from lipguard.proposing.outcome import SOLVED
from lipguard.proposing.proposal import Proposal
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.norms.product import product_bounds
from lipguard.trusted.reading.trace import trace

OPTIONS = SolverOptions("scs", 1e-3, 3000)


def jobs(count: int) -> list[Job]:
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        network = trace(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double(), (4,))
        scales = product_bounds(network, node_norms(network, HINTS))
        found.append(Job(Problem.build(network, FreedNetwork.assemble(network), scales), {}, float(seed)))
    return found


def test_processes_give_the_same_multipliers_in_the_same_order() -> None:
    calls: list[int] = []
    serial = solve_all(jobs(4), OPTIONS, 1, None, lambda: calls.append(1))
    both = solve_all(jobs(4), OPTIONS, 2, None, lambda: calls.append(2))
    for one, other in zip(serial, both, strict=True):
        assert np.allclose(one.multipliers, other.multipliers, rtol=1e-6)
    assert calls == [1] * 4 + [2] * 4


@pytest.mark.parametrize("workers", [1, 2])
def test_a_deadline_that_has_passed_leaves_every_job_unsolved(workers: int) -> None:
    found = solve_all(jobs(2), OPTIONS, workers, time.monotonic() - 1, lambda: None)
    assert [p.status for p in found] == ["failed (no time left)"] * 2


def _killed(*_: object) -> Proposal:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.slow  # a solver that kills its worker is among those below
def test_a_worker_that_dies_costs_its_jobs_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parallel, "_solve_before", _killed)
    found = solve_all(jobs(2), OPTIONS, 2, None, lambda: None)
    assert all(p.multipliers is None and p.status.is_failed for p in found)
    assert "worker process failed" in caplog.text
    monkeypatch.undo()
    again = solve_all(jobs(2), OPTIONS, 2, None, lambda: None)
    assert all(p.status == "solved" for p in again)


def test_processes_without_loky_are_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"lipguard\[parallel\]"):
        solve_all(jobs(2), OPTIONS, 2, None, lambda: None)
    assert len(solve_all(jobs(2), OPTIONS, None, None, lambda: None)) == 2


def test_processes_are_used_where_they_are_worth_their_start() -> None:
    short, long = jobs(3)[:2], [Job(job.problem, job.state, 60.0) for job in jobs(3)]
    assert parallel.workers_for([job.seconds for job in short], None) == 1
    assert parallel.workers_for([job.seconds for job in long], None) == min(os.cpu_count() or 1, 3)
    assert parallel.workers_for([job.seconds for job in long], 8) == 3


_SOLVE = parallel._solve_before


def _is_chosen(problem: Problem) -> bool:
    return len(problem.K) == 5  # of a network with one hidden layer of five


def _kills_itself(problem: Problem, *rest: object) -> Proposal:
    return _killed() if _is_chosen(problem) else _SOLVE(problem, *rest)  # type: ignore[arg-type]


def _hangs(problem: Problem, *rest: object) -> Proposal:
    if _is_chosen(problem):
        time.sleep(3600)
    return _SOLVE(problem, *rest)  # type: ignore[arg-type]


def _returns_nothing_that_is_a_number(problem: Problem, *rest: object) -> Proposal:
    proposal = _SOLVE(problem, *rest)  # type: ignore[arg-type]
    return Proposal(np.full(5, np.nan), 1.0, SOLVED) if _is_chosen(problem) else proposal


@pytest.mark.parametrize(
    "fault", [_kills_itself, pytest.param(_hangs, marks=pytest.mark.slow), _returns_nothing_that_is_a_number]
)
def test_a_solver_that_fails_costs_its_own_block_only(fault: object, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)]
    model = nn.Sequential(*layers).double().eval()
    config = DCPConfig(solver="scs", partition="cuts", max_block_size=11, workers=2)
    good = lipguard.certify(model, (4,), config)
    assert [row["method"] for row in good.rows].count("one LMI") == 2
    monkeypatch.setattr(parallel, "_solve_before", fault)
    seconds = 10.0 if fault is _hangs else 120.0  # a busy machine takes long to start processes
    began = time.monotonic()
    report = lipguard.certify(model, (4,), dataclasses.replace(config, max_seconds=seconds))
    assert time.monotonic() - began < 1.1 * seconds + 2
    assert good.bound < report.bound < report.product_bound
    assert report.status.startswith("fallback")
    assert lipguard.verify(report.certificate, model) == report.bound
    proved = [bool(parts) for block, parts in zip(report.plan.blocks, report.certificate.multipliers, strict=True)
              if block.kind == "whole"]  # fmt: skip
    assert proved == [True, False]
