"""`certify`: the only place that composes the stages."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipguard.certificate.blocks import form_norm, prove_block
from lipguard.certificate.certificate import Certificate
from lipguard.certificate.cholesky import slacks
from lipguard.certificate.norms import node_norms, product_bounds
from lipguard.certificate.rounding import up
from lipguard.certificate.verify import ProvedBlock, block_norms, block_product, checked_multipliers, total_bound
from lipguard.config import DCPConfig
from lipguard.errors import CertificateError
from lipguard.network.graph import Network
from lipguard.network.linearised import FreedNetwork
from lipguard.network.trace import trace
from lipguard.partition.plan import Block, PartitionPlan
from lipguard.partition.search import find_plan
from lipguard.report import Report, WarmStart
from lipguard.robustness import lower_bound
from lipguard.solvers import power
from lipguard.solvers.conic import Proposal, SolverOptions
from lipguard.solvers.parallel import Job, solve_all
from lipguard.solvers.power import PowerOptions
from lipguard.solvers.problem import Problem
from lipguard.solvers.repair import repaired

Array = NDArray[np.float64]
_LOG = logging.getLogger(__name__)
# The claim is this much above what was proved here, so that another machine's rounding proves it too.
_HEADROOM = 1e-9


def certify(
    model: nn.Module,
    input_shape: Sequence[int],
    config: DCPConfig | None = None,
    warm_start: Report | WarmStart | Certificate | None = None,
    progress: bool = False,
    *,
    data: Tensor | None = None,
    optimise: bool = True,
) -> Report:
    """Certify an upper bound of the Lipschitz constant of `model` (l2 to l2, over all inputs, in eval mode).

    Args:
        model: a torch module, or LightningModule, of supported layers.
        input_shape: shape of one sample, without the batch axis.
        config: settings; `DCPConfig()` by default.
        warm_start: an earlier result for the same architecture: its plan is reused and its multipliers are the start.
        progress: show a progress bar of the solves.
        data: samples, shape (n, *input_shape), from which the search for the lower bound starts.
        optimise: False only proves what the multipliers of `warm_start` give for the weights as they are now.

    Returns:
        The report. A solver that fails, or a budget that ends, costs tightness only; `report.status` says so.

    Raises:
        UnsupportedLayerError, InvalidNetworkError: the network cannot be bounded.
        ConfigError: the settings do not fit the network.
        CertificateError: bounds contradict each other, which would be an error in lipguard.
    """
    start = time.monotonic()
    config = config or DCPConfig()
    with torch.inference_mode(False):  # the search for the lower bound differentiates
        return _certify(trace(model, input_shape), config, _warm(warm_start), progress, data, optimise, start)


def plan(model: nn.Module, input_shape: Sequence[int], config: DCPConfig | None = None) -> PartitionPlan:
    """The partition that `certify` would use, without solving; `print` it.

    Raises:
        UnsupportedLayerError, InvalidNetworkError, ConfigError: as `certify`.
    """
    return find_plan(trace(model, input_shape), config or DCPConfig())


def _certify(
    network: Network, config: DCPConfig, warm: WarmStart | None, progress: bool, data: Tensor | None, optimise: bool,
    start: float,
) -> Report:  # fmt: skip
    plan = _plan(network, config, warm, optimise)
    if warm is not None and not _same_blocks(plan, warm.certificate.plan):
        _LOG.info("The warm start belongs to another architecture or plan; starting cold.")
        warm = None
    norms = node_norms(network)
    deadline = None if config.max_seconds is None else start + config.max_seconds
    blocks = [_BlockRun(network, block, i, warm) for i, block in enumerate(plan.blocks)]
    if optimise:
        _propose(blocks, config, norms, deadline, progress)
    for run in blocks:
        run.prove(block_product(network, norms, run.block), config.merge, config.tolerance)
    return _report(network, config, plan, norms, blocks, data, start, optimise)


def _warm(source: Report | WarmStart | Certificate | None) -> WarmStart | None:
    if isinstance(source, Report):
        return source.warm_start
    return WarmStart(source) if isinstance(source, Certificate) else source


def _plan(network: Network, config: DCPConfig, warm: WarmStart | None, optimise: bool) -> PartitionPlan:
    if warm is not None:
        known = warm.certificate.plan
        try:
            known.check(network)
        except CertificateError:
            return find_plan(network, config)
        if not optimise or known.settings == PartitionPlan.settings_of(config):
            return known
    return find_plan(network, config)


def _same_blocks(one: PartitionPlan, other: PartitionPlan) -> bool:
    places = [[(b.start, b.stop, b.kind, b.tile) for b in plan.blocks] for plan in (one, other)]
    return one.architecture == other.architecture and places[0] == places[1]


@dataclass
class _BlockRun:
    """One block on its way from proposals to a proof."""

    network: Network
    block: Block
    index: int
    warm: WarmStart | None

    def __post_init__(self) -> None:
        self.parts = self.block.parts(self.network)
        self.freed = [FreedNetwork.assemble(part) for part in self.parts]
        self.proposals: list[Proposal] = []
        self.multipliers: tuple[Array, ...] = ()
        self.slack = 0.0
        self.proved = ProvedBlock(math.inf, math.inf)
        self.gap = math.nan
        self.status = ""
        self.seconds = 0.0

    def jobs(self, norms: Sequence[float]) -> list[Job]:
        """What a conic solver is asked; `norms` are those of the whole network's nodes."""
        share = self.block.seconds / max(len(self.parts), 1)
        found = []
        for j, (part, freed) in enumerate(zip(self.parts, self.freed, strict=True)):
            known = block_norms(norms, self.block) if self.block.kind == "whole" else node_norms(part)
            problem = Problem.build(part, freed, product_bounds(part, known))
            found.append(Job(problem, self._earlier.get(self._key(j), {}), share))
        return found

    @property
    def _earlier(self) -> Mapping[str, Mapping[str, Array]]:
        """What the solver left last time, by part."""
        return self.warm.solver_state if self.warm is not None else {}

    def iterate(self, config: DCPConfig, deadline: float | None, done: Callable[[], object]) -> Iterator[Proposal]:
        """Proposals of the power iteration, which needs the parts themselves, and no matrix."""
        for j, part in enumerate(self.parts):
            left = None if deadline is None else deadline - time.monotonic()
            options = PowerOptions(
                tolerance=config.tolerance * 1e-3,
                max_iterations=config.max_iterations,
                seed=config.seed,
                max_seconds=left,
            )
            yield power.propose(part, options, self._earlier.get(self._key(j)))
            done()

    def prove(self, product: float, merge: str, tolerance: float) -> None:
        """The best bound that the proposals, or else the last multipliers, prove; the product of norms in any case."""
        self.proved = ProvedBlock(product, product)
        if not self.parts or product == 0:
            return
        began = time.monotonic()
        chosen = [self._chosen(j, tolerance) for j in range(len(self.parts))]
        multipliers = [t for t in chosen if t is not None]
        failed = [proposal.status for proposal in self.proposals if proposal.multipliers is None]
        self.status = "; ".join(dict.fromkeys(failed or [p.status for p in self.proposals])) or "not solved"
        if len(multipliers) == len(self.parts):
            for slack in slacks(max(freed.n_x + freed.neurons for freed in self.freed)):
                proof = prove_block(self.network, self.block, self.freed, multipliers, slack, merge)
                if proof is not None:
                    self.multipliers, self.slack = tuple(multipliers), slack
                    self.proved = ProvedBlock(min(proof.bound, product), product, proof.merges)
                    break
            else:
                self.status += "; no proof"
        self.seconds += time.monotonic() - began

    def _chosen(self, j: int, tolerance: float) -> Array | None:
        """The proposed multipliers of part j, or the last ones where those are better, made feasible."""
        layers = [self.parts[j].nodes[i].size for i in self.parts[j].activations]
        proposal = self.proposals[j] if j < len(self.proposals) else None
        value = proposal.value if proposal is not None and proposal.value > 0 else 0.0
        enough = value * value * (1 + tolerance) ** 2
        best: tuple[Array, float] | None = None
        if proposal is not None and proposal.multipliers is not None:
            best = repaired(proposal.multipliers, layers, lambda t: form_norm(self.freed[j], t), enough)
        if self.warm is not None and (best is None or best[1] > enough) and self._has_warm_multipliers(self.warm):
            last = self.warm.certificate.multipliers[self.index][j]
            other = repaired(last, layers, lambda t: form_norm(self.freed[j], t), enough)
            best = min((found for found in (best, other) if found is not None), key=lambda f: f[1], default=None)
        if best is None:
            return None
        if value > 0:
            gap = math.sqrt(best[1]) / value - 1
            self.gap = gap if math.isnan(self.gap) else max(self.gap, gap)
        return best[0]

    def _has_warm_multipliers(self, warm: WarmStart) -> bool:
        if not warm.certificate.multipliers[self.index]:
            return False
        try:
            checked_multipliers(warm.certificate.multipliers[self.index], self.freed, f"block {self.index}")
        except CertificateError as error:
            _LOG.warning("The warm start is not used: %s", error)
            return False
        return True

    def _key(self, j: int) -> str:
        return f"{self.index}.{j}"

    def solver_state(self) -> dict[str, Mapping[str, Array]]:
        """What the next solve of each part starts from: this one's end, or where there was none, the one before's."""
        keys = [self._key(j) for j in range(len(self.parts))]
        kept = {key: self._earlier[key] for key in keys if key in self._earlier}
        return kept | {key: p.state for key, p in zip(keys, self.proposals, strict=False) if p.state}

    def row(self) -> dict[str, Any]:
        return {
            "block": self.index,
            "layers": " .. ".join(dict.fromkeys(self.block.layers)),
            "method": self.block.method,
            "rows": ", ".join(map(str, self.block.variables)) or None,
            "tiles": self.block.tiles or None,
            "product": self.proved.product,
            "bound": self.proved.bound,
            **{name: self.proved.merges.get(name) for name in ("sum", "coverage", "form")},
            "status": self.status or None,
            "iterations": sum(p.iterations for p in self.proposals) or None,
            "seconds": self.seconds,
        }


def _propose(
    blocks: Sequence[_BlockRun], config: DCPConfig, norms: Sequence[float], deadline: float | None, progress: bool
) -> None:
    from tqdm import tqdm  # comes with Lightning; not needed to verify

    owners = [run for run in blocks for _ in run.parts]
    with tqdm(total=len(owners), desc="LMIs", unit="solve", disable=not progress or not owners, leave=False) as bar:
        began = time.monotonic()
        if config.solver == "power":
            proposals = [proposal for run in blocks for proposal in run.iterate(config, deadline, bar.update)]
        else:
            options = SolverOptions(config.solver, config.tolerance, config.max_iterations)
            jobs = [job for run in blocks for job in run.jobs(norms)]
            proposals = solve_all(jobs, options, config.workers, deadline, bar.update)
    for run, proposal in zip(owners, proposals, strict=True):
        run.proposals.append(proposal)
        run.seconds += (time.monotonic() - began) / len(owners)


def _report(
    network: Network, config: DCPConfig, plan: PartitionPlan, norms: Sequence[float], blocks: Sequence[_BlockRun],
    data: Tensor | None, start: float, optimise: bool,
) -> Report:  # fmt: skip
    product = product_bounds(network, norms)[-1]
    total = total_bound([run.proved for run in blocks], product)
    bound = min(up(total * (1 + _HEADROOM)), product)
    solved = any(run.multipliers for run in blocks)
    certificate = Certificate(
        network.digest, network.input_shape, plan, config.merge, tuple(run.multipliers for run in blocks),
        tuple(run.slack for run in blocks), bound, "dense" if solved and bound < product else "product",
    )  # fmt: skip
    lower = lower_bound(network, data, config.seed)
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
        bound, product, lower, max(gaps, default=math.nan), certificate.proof, 0.0, certificate, plan,
        time.monotonic() - start, _status(blocks, optimise), WarmStart(certificate, states),
        tuple(run.row() for run in blocks),
    )  # fmt: skip


def _status(blocks: Sequence[_BlockRun], optimise: bool) -> str:
    lost = [
        f"block {run.index}: {run.status}" for run in blocks if run.parts and run.proved.product > 0
        and (not run.multipliers or any(p.multipliers is None for p in run.proposals))
    ]  # fmt: skip
    if not optimise:
        return "reused" + (" (product of norms for " + ", ".join(lost) + ")" if lost else "")
    return "fallback: " + "; ".join(lost) if lost else "complete"
