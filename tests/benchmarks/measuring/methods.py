"""What is measured, each in a process of its own: lipguard, the product of norms, and cvxpy on LipSDP's whole LMI."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

import lipguard
from lipguard import DCPConfig
from lipguard.certifying.hints import HINTS
from lipguard.certifying.warm_start import WarmStart
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.norms.product import product_bounds
from lipguard.trusted.reading.trace import trace

from .process import Clock

Shape = tuple[int, ...]
Values = dict[str, Any]


def product(clock: Clock, weights: Path, shape: Shape) -> Values:
    """The product of layer norms, as a report has it."""
    model = load(weights)
    warm_up()
    with clock:
        network = trace(model, shape)
        bound = product_bounds(network, node_norms(network, HINTS))[-1]
    return {"bound": bound, "product": bound, "proof": "product"}


def certify(
    clock: Clock, weights: Path, shape: Shape, settings: dict[str, object], warm: Path | None, keep: Path | None,
    device: str = "cpu",
) -> Values:  # fmt: skip
    """`lipguard.certify`, from the warm start in a file where there is one; what it leaves goes to `keep`."""
    config, model = DCPConfig.from_dict(settings), load(weights).to(device)
    start = None if warm is None else WarmStart.from_state(torch.load(warm))
    warm_up(config, device)
    with clock:
        report = lipguard.certify(model, shape, config, warm_start=start)
    if keep is not None:
        torch.save(report.warm_start.to_state(), keep)
    return {
        "bound": report.bound, "product": report.product_bound, "lower": report.lower_bound, "proof": report.proof,
        "failure_probability": report.failure_probability, "status": report.status, "gap": report.relaxation_gap,
    }  # fmt: skip


def lipsdp(clock: Clock, weights: Path, shape: Shape, solver: str) -> Values:
    """LipSDP by cvxpy, with the solver's default settings; the value as reported, which nothing proves."""
    model = load(weights)
    _solve(_small(), (2,), solver)
    with clock:
        rho, status = _solve(model, shape, solver)
    if rho is None:
        raise ArithmeticError(status)
    return {"bound": math.sqrt(max(rho, 0.0)), "proof": "none", "status": status}


def _solve(model: nn.Module, shape: Shape, solver: str) -> tuple[float | None, str]:
    """min rho such that A(rho, t) >= 0, t >= 0: every neuron adds 2 t (b - alpha a)(b - beta a)."""
    import cvxpy as cp  # not in the memory of the other methods

    freed = FreedNetwork.assemble(trace(model, shape))
    n_x, n = freed.n_x, freed.n_x + freed.neurons
    B = sp.eye_array(freed.neurons, n, k=n_x, format="csr")
    U, V = (sp.csr_array(B - slope[:, None] * freed.K) for slope in (freed.alpha, freed.beta))
    rho, t = cp.Variable(), cp.Variable(freed.neurons, nonneg=True)
    S = U.T @ cp.diag(t) @ V  # type: ignore[attr-defined]
    A = rho * sp.diags_array((np.arange(n) < n_x).astype(float)) - freed.Y.T @ freed.Y + S + S.T
    problem = cp.Problem(cp.Minimize(rho), [A >> 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the status says what there is to say
        problem.solve(solver=solver)  # type: ignore[no-untyped-call]
    return (None if rho.value is None else float(rho.value)), str(problem.status)


def warm_up(config: DCPConfig | None = None, device: str = "cpu") -> None:
    """Certify three neurons: loads what is loaded on first use, and measures the machine for the cost model."""
    model = _small().to(device)
    lipguard.certify(model, (2,), config)
    for proof in ("dense", "sparse", "randomised"):
        lipguard.certify(model, (2,), DCPConfig(proof=proof))


def _small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).eval()


def load(weights: Path) -> nn.Module:
    """What a run saved for its processes."""
    model: nn.Module = torch.load(weights, weights_only=False)
    return model
