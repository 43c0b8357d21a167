"""`certify`: the only place that composes the stages."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipguard import __version__
from lipguard.certifying.block_run import BlockRun
from lipguard.certifying.hints import HINTS
from lipguard.certifying.lower_bound import warm_lower_bound
from lipguard.certifying.report import Report, WarmStart
from lipguard.certifying.status import Outcome, Status
from lipguard.certifying.threads import few_threads
from lipguard.config import DCPConfig
from lipguard.errors import CertificateError
from lipguard.planning.machine import cost_model, learn
from lipguard.planning.plan import settings_of
from lipguard.planning.prices.iteration import iteration_seconds
from lipguard.planning.search import find_plan, search_deadline
from lipguard.proposing.power import run as power
from lipguard.proposing.power.options import PowerOptions
from lipguard.trusted.certificate.blocks import PartitionPlan
from lipguard.trusted.certificate.certificate import Certificate
from lipguard.trusted.certificate.verify import block_product, total_bound, weakest_proof
from lipguard.trusted.network.graph import Network
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.norms.matrices import LateNormError
from lipguard.trusted.norms.product import product_bounds
from lipguard.trusted.proofs.kinds import errs
from lipguard.trusted.reading.trace import trace
from lipguard.trusted.regions.region import Domain
from lipguard.trusted.regions.restriction import restricted
from lipguard.trusted.rounding import mul_up, subnormal_numbers

Array = NDArray[np.float64]
_LOG = logging.getLogger(__name__)
# The claim is this much above what was proved here, so that another machine's rounding proves it too.
_HEADROOM = 1e-9
_NORMS_HEADROOM = 1e-11
_SHARE_OF_NORMS = 0.1  # of the time that is left, beyond which layers get looser norms
_QUICK = 1e6  # entries of a network whose lower bound may come after the deadline: a few passes
_SHARE_OF_PROOFS = 0.2  # of the time that is left, which conic solvers leave
_ROUGH, _ROUGH_STEPS = 1e-4, 60  # where the value of a relaxation only decides between plans


def certify(
    model: nn.Module,
    input_shape: Sequence[int],
    config: DCPConfig | None = None,
    warm_start: Report | WarmStart | Certificate | None = None,
    progress: bool = False,
    *,
    data: Tensor | None = None,
    domain: Domain | None = None,
    optimise: bool = True,
    executor: Executor | None = None,
) -> Report:
    """Certify an upper bound of the Lipschitz constant of `model` (l2 to l2, over all inputs, in eval mode).

    Args:
        model: a torch module, or LightningModule, of supported layers.
        input_shape: shape of one sample, without the batch axis.
        config: settings; `DCPConfig()` by default.
        warm_start: an earlier result for the same architecture: its plan is reused and its multipliers are the start.
        progress: show a progress bar of the solves.
        data: samples, shape ``(n, *input_shape)``, from which the search for the lower bound starts.
        domain: `Box(0, 1)` or a `Ball`: inputs on which another bound is asked for, in `report.restricted`.
        optimise: False only proves what the multipliers of `warm_start` give for the weights as they are now.
        executor: solves the LMIs of a conic solver, instead of processes of this machine.

    Returns:
        The report. A solver that fails, or a budget that ends, costs tightness only; `report.status` says so.

    Raises:
        UnsupportedLayerError, InvalidNetworkError: the network cannot be bounded.
        ConfigError: the settings do not fit the network.
        CertificateError: bounds contradict each other, or an activation has a slope that it cannot have: an error in
            lipguard, or in what was registered.
    """
    start = time.monotonic()
    config = config or DCPConfig()
    with torch.inference_mode(False):  # the search for the lower bound differentiates
        network = trace(model, input_shape)
        deadline = deadline_of(config, start)
        if domain is not None and config.max_seconds is not None:  # two runs share one budget
            config = dataclasses.replace(config, max_seconds=config.max_seconds / 2)
        request = Request(network, config, _warm(warm_start), data, optimise, device_of(model))
        report = certify_network(request, start, progress, executor)
        if domain is None:
            return report
        earlier = _warm(warm_start.restricted if isinstance(warm_start, Report) else None)
        request = dataclasses.replace(request, warm=earlier, optimise=optimise or earlier is None, domain=domain)
        try:
            within = certify_network(request, time.monotonic(), progress, executor, deadline)
        except LateNormError:  # what holds everywhere holds on the domain
            status = Status(Outcome.FALLBACK, "no time for the slopes on the domain")
            late = dataclasses.replace(report, lower_bound=0.0, status=status)
            return dataclasses.replace(report, restricted=late)
        if within.bound >= report.bound:
            within = dataclasses.replace(report, lower_bound=within.lower_bound, notes=within.notes)
        return dataclasses.replace(report, restricted=within)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are: the power iteration runs there, if it can do so in double precision."""
    found = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    return torch.device("cpu") if found.type == "mps" else found


def plan(model: nn.Module, input_shape: Sequence[int], config: DCPConfig | None = None) -> PartitionPlan:
    """The partition that `certify` would use, without solving; `print` it.

    Raises:
        UnsupportedLayerError, InvalidNetworkError, ConfigError: as `certify`.
    """
    config, start = config or DCPConfig(), time.monotonic()
    with torch.inference_mode(False):
        network = trace(model, input_shape)
        deadline = search_deadline(config, start)
        return find_plan(network, config, value=_value(config, device_of(model), deadline), deadline=deadline)


@dataclass(frozen=True, eq=False)
class Request:
    """What is to be certified, in values that travel to another process."""

    network: Network
    config: DCPConfig
    warm: WarmStart | None = None
    data: Tensor | None = None
    optimise: bool = True
    device: torch.device | str = "cpu"
    domain: Domain | None = None
    sought: bool = True  # whether a lower bound is looked for


def deadline_of(config: DCPConfig, start: float) -> float:
    """When the time of a budget that began at `start` ends, of `time.monotonic()`."""
    return math.inf if config.max_seconds is None else start + config.max_seconds


def certify_network(
    request: Request, start: float, progress: bool = False, executor: Executor | None = None,
    deadline: float | None = None,
) -> Report:  # fmt: skip
    """`certify` of a network that is traced already.

    Args:
        request: what is to be certified.
        start: when it began, of `time.monotonic()`.
        progress: show a progress bar of the solves.
        executor: as for `certify`.
        deadline: of `time.monotonic()`, at which the result has to be there; by default where the budget of
            the settings ends.

    Raises:
        LateNormError: there is no time to read what a domain makes of the network.
    """
    with few_threads(request.network), subnormal_numbers():
        return _certify_network(request, start, progress, executor, deadline)


def _certify_network(
    request: Request, start: float, progress: bool, executor: Executor | None, deadline: float | None
) -> Report:
    config, warm, device = request.config, request.warm, request.device
    deadline = deadline_of(config, start) if deadline is None else deadline
    network = request.network
    if request.domain is not None:
        # The verifier's slopes come from norms that are not late, and so must these.
        exact = node_norms(network, HINTS, _within(deadline, 3 * _SHARE_OF_NORMS), exact=True)
        network = restricted(network, request.domain, exact)
    optimise = request.optimise
    plan = _plan(network, config, warm, optimise, device, search_deadline(config, start, deadline))
    if warm is not None and not _same_blocks(plan, warm.certificate.plan):
        _LOG.info("The warm start belongs to another architecture or plan; starting cold.")
        warm = None
    norms = node_norms(network, HINTS, _within(deadline, _SHARE_OF_NORMS))
    blocks = [
        BlockRun(network, plan, i, config, warm, block_product(network, norms, block), deadline, device)
        for i, block in enumerate(plan.blocks)
    ]
    interrupted = False
    try:
        _propose(blocks, config, norms, deadline, progress, optimise, executor)
        for run in blocks:
            run.prove()
            while optimise and run.may_improve():
                run.iterate(True)
                run.prove()
            if optimise:
                run.tighten()
    except KeyboardInterrupt:  # what is proved so far is the result
        interrupted = True
    interrupted = interrupted or any(p.status.is_interrupted for run in blocks for p in run.proposals)
    report = _report(request, network, plan, norms, blocks, (start, deadline), interrupted, warm)
    if warm is None and optimise and report.status.is_complete and deadline == math.inf:
        try:
            _learn(network, config, blocks)
        except Exception as error:  # a cache that cannot be written, say: later plans are a little worse
            _LOG.warning("The cost model did not learn.", exc_info=True)
            note = f"the cost model did not learn from this run: {type(error).__name__}: {error}"
            report = dataclasses.replace(report, notes=(*report.notes, note))
    return report


def _learn(network: Network, config: DCPConfig, blocks: Sequence[BlockRun]) -> None:
    """Compare what the stages of a whole network took with what was predicted."""
    (run, *others) = blocks
    if others or config.solver != "power" or len(run.parts) != 1 or run.rounds != 1:
        return
    cost = cost_model()
    observed = {"iteration": (run.iterating, iteration_seconds(run.parts[0], cost, run.block.multipliers))}
    predicted = run.block.seconds - observed["iteration"][1]
    observed[run.block.proof] = (run.seconds - run.iterating - run.tightening, predicted)
    learn(observed)


def _warm(source: Report | WarmStart | Certificate | None) -> WarmStart | None:
    if isinstance(source, Report):
        return source.warm_start
    return WarmStart(source) if isinstance(source, Certificate) else source


def _within(deadline: float, share: float) -> float:
    """When a share of the time that is left is over, of `time.monotonic()`."""
    now = time.monotonic()
    return now + share * max(deadline - now, 0.0)


def _value(config: DCPConfig, device: torch.device | str, deadline: float) -> Callable[[Network], float]:
    """A few steps of the power iteration: what the relaxation of a network is worth, roughly; by a deadline.

    Where there is no time for a step the value is not a number.
    """
    options = PowerOptions(
        tolerance=_ROUGH, max_iterations=_ROUGH_STEPS, seed=config.seed, dtype=torch.float32, device=device,
        tied=config.multipliers == "channel",
    )  # fmt: skip

    def value(network: Network) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            return math.nan
        limited = options if left == math.inf else dataclasses.replace(options, max_seconds=left)
        return power.propose(network, limited).value

    return value


def _plan(
    network: Network, config: DCPConfig, warm: WarmStart | None, optimise: bool, device: torch.device | str,
    deadline: float,
) -> PartitionPlan:  # fmt: skip
    value = _value(config, device, deadline)
    if warm is not None:
        known = warm.certificate.plan
        try:
            known.check(network)
        except CertificateError:
            return find_plan(network, config, value=value, deadline=deadline)
        if not optimise or known.settings == settings_of(config):
            return known
    return find_plan(network, config, value=value, deadline=deadline)


def _same_blocks(one: PartitionPlan, other: PartitionPlan) -> bool:
    places = [[(b.start, b.stop, b.kind, b.tile, b.cuts, b.grids) for b in plan.blocks] for plan in (one, other)]
    return one.architecture == other.architecture and places[0] == places[1]


def _propose(
    blocks: Sequence[BlockRun], config: DCPConfig, norms: Sequence[float], deadline: float, progress: bool,
    optimise: bool, executor: Executor | None,
) -> None:  # fmt: skip
    from tqdm import tqdm  # comes with Lightning; not needed to verify

    if config.solver != "power" and not optimise:
        return
    owners = [run for run in blocks for _ in run.parts]
    with tqdm(total=len(owners), desc="LMIs", unit="solve", disable=not progress or not owners, leave=False) as bar:
        if config.solver == "power":
            for run in blocks:
                run.iterate(optimise)
                bar.update(len(run.parts))
            return
        from lipguard.proposing.conic.jobs import solve_all
        from lipguard.proposing.conic.solve import SolverOptions

        began = time.monotonic()
        options = SolverOptions(config.solver, config.tolerance, config.max_iterations)
        jobs = [job for run in blocks for job in run.jobs(norms)]
        # The rest is for the proofs of what came back, where one solver hangs.
        limit = deadline - _SHARE_OF_PROOFS * max(deadline - time.monotonic(), 0.0) if deadline < math.inf else None
        proposals = solve_all(jobs, options, config.workers, limit, bar.update, executor)
    for run, proposal in zip(owners, proposals, strict=True):
        run.proposals.append(proposal)
        run.seconds += (time.monotonic() - began) / len(owners)


def _report(
    request: Request, bounded: Network, plan: PartitionPlan, norms: Sequence[float], blocks: Sequence[BlockRun],
    times: tuple[float, float], interrupted: bool, warm: WarmStart | None,
) -> Report:  # fmt: skip
    network, config, domain, optimise = request.network, request.config, request.domain, request.optimise
    start, deadline = times
    if any(run.is_lost for run in blocks) and deadline < math.inf:  # what time is left makes the product tighter
        norms = [min(pair) for pair in zip(norms, node_norms(bounded, HINTS, _within(deadline, 0.6)), strict=True)]
    if domain is not None:
        norms = node_norms(network, HINTS, _within(deadline, 0.6))
    exact = product_bounds(network, norms)[-1]
    product = mul_up(exact, 1 + _NORMS_HEADROOM)
    total = total_bound([run.proved for run in blocks], exact)
    bound = min(mul_up(total, 1 + _HEADROOM), product)
    weakest = weakest_proof(plan, [bool(run.multipliers) for run in blocks])
    probability = config.failure_probability if errs(weakest) else 0.0
    proof = weakest if bound < product else "product"
    certificate = Certificate(
        network.digest, network.input_shape, plan, config.merge, tuple(run.multipliers for run in blocks),
        tuple(run.slack for run in blocks), tuple(run.form for run in blocks), bound, proof, probability, domain,
        __version__,
    )  # fmt: skip
    known = None if warm is None else warm.points
    project = None if domain is None else domain.project
    lower, points, notes = 0.0, known, network.notes
    if request.sought and (time.monotonic() < deadline or sum(node.size for node in network.nodes) < _QUICK):
        try:
            lower, points = warm_lower_bound(network, request.data, config.seed, known, deadline, project)
        except CertificateError:
            raise
        except Exception as error:  # whatever it is: a bound does not depend on it
            _LOG.warning("The search for a lower bound failed.", exc_info=True)
            line = (str(error).strip().splitlines() or [""])[0]
            notes = (*notes, f"no lower bound: the search failed with {type(error).__name__}: {line}")
    if lower > bound:
        raise CertificateError(
            f"Internal contradiction: the Jacobian norm {lower!r} was found above the bound {bound!r}. "
            "Please report this network."
        )
    states: dict[str, Mapping[str, Array]] = {}
    for run in blocks:
        states |= run.solver_state()
    gaps = [run.gap for run in blocks if not math.isnan(run.gap)]
    return Report(
        bound, product, lower, max(gaps, default=math.nan), proof, probability if proof != "product" else 0.0,
        certificate, plan, time.monotonic() - start, _status(blocks, optimise, interrupted, warm is not None),
        WarmStart(certificate, states, points),
        tuple(run.row() for run in blocks), notes=notes,
    )  # fmt: skip


def _status(blocks: Sequence[BlockRun], optimise: bool, interrupted: bool, known: bool) -> Status:
    lost = [f"block {run.index}: {run.status}" for run in blocks if run.is_lost]
    if interrupted:
        return Status(Outcome.INTERRUPTED, "; ".join(lost))
    if not optimise:
        products = "product of norms for " + ", ".join(lost) if lost else ""
        return Status(Outcome.REUSED if known else Outcome.NOT_SOLVED, products)
    return Status(Outcome.FALLBACK, "; ".join(lost)) if lost else Status(Outcome.COMPLETE)
