"""From what is proved of the blocks to a report."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipguard import __version__
from lipguard.certifying.budget import Budget
from lipguard.certifying.hints import HINTS
from lipguard.certifying.lower_bound import warm_lower_bound
from lipguard.certifying.prepared import Prepared
from lipguard.certifying.report import Report
from lipguard.certifying.request import Request
from lipguard.certifying.state import BlockState
from lipguard.certifying.status import Outcome, Status
from lipguard.certifying.warm_start import WarmStart
from lipguard.errors import CertificateError
from lipguard.trusted.certificate.certificate import Certificate
from lipguard.trusted.certificate.verify import total_bound, weakest_proof
from lipguard.trusted.network.graph import Network
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.norms.product import product_bounds
from lipguard.trusted.proofs.kinds import BY_NORMS, errs
from lipguard.trusted.rounding import mul_up

Array = NDArray[np.float64]
_LOG = logging.getLogger(__name__)
# The claim is this much above what was proved here, so that another machine's rounding proves it too.
_HEADROOM = 1e-9
_NORMS_HEADROOM = 1e-11
_SHARE_OF_LAST_NORMS = 0.6  # of the time that is left, for norms that the bound rests on
_QUICK = 1e6  # entries of a network whose lower bound may come after the deadline: a few passes


def reported(prepared: Prepared, states: Sequence[BlockState], budget: Budget, interrupted: bool) -> Report:
    """The report of a network, with its certificate and what the next certification starts from.

    Args:
        prepared: what was to be certified.
        states: of all blocks, in order.
        budget: for the norms and the lower bound.
        interrupted: whether Ctrl-C ended it.

    Raises:
        CertificateError: the lower bound is above the bound.
    """
    prepared = _as_proved(prepared, states)
    request = prepared.request
    # A network with steep functions or products has no other norms than those of what is bounded in its place.
    own = prepared.network if request.network.steep else request.network
    exact = product_bounds(own, _final_norms(prepared, own, states, budget))[-1]
    product = mul_up(exact, 1 + _NORMS_HEADROOM)
    certificate = _certificate(prepared, states, exact, product)
    lower, points, notes = _lower_bound(request, budget)
    if lower > certificate.bound:
        raise CertificateError(
            f"Internal contradiction: the Jacobian norm {lower!r} was found above the bound {certificate.bound!r}. "
            "Please report this network."
        )
    solver_states: dict[str, Mapping[str, Array]] = {}
    for state in states:
        solver_states |= state.proposals.state(state.subject)
    gaps = [state.standing.gap for state in states if not math.isnan(state.standing.gap)]
    return Report(
        bound=certificate.bound,
        product_bound=product,
        lower_bound=lower,
        relaxation_gap=max(gaps, default=math.nan),
        proof=certificate.proof,
        failure_probability=certificate.failure_probability if certificate.proof != BY_NORMS else 0.0,
        certificate=certificate,
        plan=prepared.plan,
        seconds=budget.spent,
        status=_status(request, states, interrupted),
        warm_start=WarmStart(certificate, solver_states, points, prepared.plan),
        rows=tuple(_row(state) for state in states),
        notes=notes,
    )


def _as_proved(prepared: Prepared, states: Sequence[BlockState]) -> Prepared:
    """With the plan as it was carried out: a proof that failed may have been replaced by one of another kind."""
    if all(state.subject.plan is prepared.plan for state in states):
        return prepared
    blocks = tuple(state.subject.block for state in states)
    return dataclasses.replace(prepared, plan=dataclasses.replace(prepared.plan, blocks=blocks))


def _final_norms(
    prepared: Prepared, network: Network, states: Sequence[BlockState], budget: Budget
) -> Sequence[float]:  # fmt: skip
    """Of the nodes of a network: those of its product of norms, which holds on any domain unless it is made for one."""
    norms = prepared.norms
    if network is not prepared.network:
        return node_norms(network, HINTS, budget.within(_SHARE_OF_LAST_NORMS))
    if any(state.is_lost for state in states) and budget.is_limited:  # what time is left makes the product tighter
        again = node_norms(network, HINTS, budget.within(_SHARE_OF_LAST_NORMS))
        return [min(pair) for pair in zip(norms, again, strict=True)]
    return norms


def _certificate(prepared: Prepared, states: Sequence[BlockState], exact: float, product: float) -> Certificate:
    """Of the blocks' bounds together, or of the product of norms where that is no larger."""
    request, plan, standings = prepared.request, prepared.plan, [state.standing for state in states]
    network, config = request.network, request.config
    bound = min(mul_up(total_bound([standing.proved for standing in standings], exact), 1 + _HEADROOM), product)
    weakest = weakest_proof(plan, [bool(standing.multipliers) for standing in standings])
    return Certificate(
        digest=network.digest,
        input_shape=network.input_shape,
        plan=plan.partition,
        merge=config.merge,
        multipliers=tuple(standing.multipliers for standing in standings),
        slacks=tuple(standing.slack for standing in standings),
        forms=tuple(standing.form for standing in standings),
        bound=bound,
        proof=weakest if bound < product else BY_NORMS,
        failure_probability=config.failure_probability if errs(weakest) else 0.0,
        domain=request.domain,
        version=__version__,
    )


def _lower_bound(request: Request, budget: Budget) -> tuple[float, Array | None, tuple[str, ...]]:
    """(lower bound, points where its search ended, notes); 0 where there is none."""
    network, notes = request.network, request.network.notes
    known = None if request.warm is None else request.warm.points
    project = None if request.domain is None else request.domain.project
    quick = sum(node.size for node in network.nodes) < _QUICK
    if not (request.sought and (time.monotonic() < budget.deadline or quick)):
        return 0.0, known, notes
    try:
        found = warm_lower_bound(network, request.data, request.config.seed, known, budget.deadline, project)
    except CertificateError:
        raise
    except Exception as error:  # whatever it is: a bound does not depend on it
        _LOG.warning("The search for a lower bound failed.", exc_info=True)
        line = (str(error).strip().splitlines() or [""])[0]
        note = f"no lower bound: the search failed with {type(error).__name__}: {line}"
        return 0.0, known, (*notes, note)
    return *found, notes


def _status(request: Request, states: Sequence[BlockState], interrupted: bool) -> Status:
    lost = [f"block {state.subject.index}: {state.standing.status}" for state in states if state.is_lost]
    if interrupted:
        return Status(Outcome.INTERRUPTED, "; ".join(lost))
    if not request.optimise:
        products = "product of norms for " + ", ".join(lost) if lost else ""
        return Status(Outcome.NOT_SOLVED if request.warm is None else Outcome.REUSED, products)
    return Status(Outcome.FALLBACK, "; ".join(lost)) if lost else Status(Outcome.COMPLETE)


def _row(state: BlockState) -> dict[str, Any]:
    """Of the report's table."""
    subject, proposals, standing = state.subject, state.proposals, state.standing
    block, proved = subject.block, standing.proved
    return {
        "block": subject.index,
        "layers": " .. ".join(dict.fromkeys(block.layers)),
        "method": block.method,
        "rows": ", ".join(map(str, block.variables)) or None,
        "tiles": block.tiles or None,
        "product": proved.product,
        "bound": proved.bound,
        **{name: proved.merges.get(name) for name in ("sum", "coverage", "form")},
        "proof": block.proof if standing.multipliers else None,
        "reason": block.reason or None,
        "gap": None if math.isnan(standing.gap) else standing.gap,
        "status": standing.status or None,
        "iterations": proposals.iterations or None,
        "seconds": state.seconds,
    }
