"""One block of a plan on its way from proposals to a proof."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from lipguard.certifying.hints import HINTS
from lipguard.certifying.report import WarmStart
from lipguard.config import DCPConfig
from lipguard.errors import CertificateError
from lipguard.planning.memory import usable_memory
from lipguard.planning.prices.passes import FEWEST_STEPS, LARGE, lanczos_steps
from lipguard.planning.prices.randomised import LARGEST_CLEARANCE, randomised_clearance
from lipguard.proposing.conic.problem import Job, Problem
from lipguard.proposing.feasible.by_layer import enlarged_as_needed
from lipguard.proposing.feasible.in_span import adjusted_in_new_span, adjusted_in_span
from lipguard.proposing.feasible.lanczos import extreme_eigenvalues
from lipguard.proposing.feasible.schur import form_norm
from lipguard.proposing.feasible.uniform import enlarged_uniformly, enlarged_until_feasible
from lipguard.proposing.power import run as power
from lipguard.proposing.power.options import PowerOptions
from lipguard.proposing.proposal import Directions, Proposal
from lipguard.trusted.certificate.blocks import Block, PartitionPlan
from lipguard.trusted.certificate.verify import ProvedBlock, block_norms, checked_multipliers, share_of_probability
from lipguard.trusted.layers import Activation, Conv2d, Linear
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.network.graph import Network
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.norms.product import product_bounds
from lipguard.trusted.proofs.cholesky import slacks
from lipguard.trusted.proofs.claim import Claim, Means
from lipguard.trusted.proofs.kinds import errs, proves
from lipguard.trusted.proofs.randomised import VECTORS, OutOfTimeError, course, largest_loss
from lipguard.trusted.proofs.tiles import LARGEST_MATRIX, SMALLEST_FORM, prove_tiles
from lipguard.trusted.rounding import sqrt_up

Array = NDArray[np.float64]
_LOG = logging.getLogger(__name__)
_MOST_ITERATIONS = 400  # of the power iteration; its value stands still long before
_ROUNDS = 4  # in which the iteration goes on where a cheap proof left a gap
_MENDED_ROUNDS = 2  # where it is not the iteration that leaves it
_COPIES = 40  # of every vector that the iteration, and what follows it, keep at once
_COPIES_TO_ADJUST = 40  # of the vectors that multipliers are adjusted with
_REFRESH = 10  # where nothing is to be optimised: what brings the multipliers to the new weights
_STIR = 0.1  # noise on the last epoch's vectors
_TIED_STEPS = 80  # that find one multiplier per channel, before those per neuron are looked for
_HURRIED_STEPS = 25  # where there is time for those only: what is left makes for a proof with a smaller clearance
_TIED_KEY = ".channel"  # of the state of the former
_BESIDE = 28  # vectors that go through the matrix before a randomised proof, and in it beside the recurrence
_FEWEST_VECTORS = 100  # that go through the matrix in a randomised proof, about
_CLEARANCE_ROUNDS = 4  # in which clearances by layer are looked for
_SMALL = 2_000  # neurons up to which a proof takes so little that several are tried
_TIGHTENED, _MOST_BISECTIONS = 6_000, 16  # neurons up to which the smallest rho is sought, in so many proofs
_LATE = "; no time left"
_GRACE = 1.5  # seconds for small proofs after the deadline, at which solvers in other processes are given up

_Candidate: TypeAlias = tuple[Array, float, Directions | None]


@dataclass(frozen=True, eq=False)
class _Attempt:
    """At a proof: multipliers and rho, with the enlargement to begin with.

    Attributes:
        t: multipliers.
        rho: the square of the bound, before the step.
        step: of `enlarged_uniformly`.
        clearance: that a randomised proof is to count on.
        hopeful: whether the step is likely to do.
    """

    t: Array
    rho: float
    step: float
    clearance: float
    hopeful: bool


@dataclass
class BlockRun:
    """One block on its way from proposals to a proof."""

    network: Network
    plan: PartitionPlan
    index: int
    config: DCPConfig
    warm: WarmStart | None
    product: float  # of the block's norms
    deadline: float  # of `time.monotonic()`
    device: torch.device | str

    def __post_init__(self) -> None:
        self.block: Block = self.plan.blocks[self.index]
        self.parts = self.block.parts(self.network)
        self.proposals: list[Proposal] = []
        self.tied: Proposal | None = None  # one multiplier per channel, where both kinds are tried
        self.multipliers: tuple[Array, ...] = ()
        self.slack = 0.0
        self.rho = 0.0
        self.has_mended = False  # whether multipliers were adjusted in directions that the iteration did not see
        self.futile = False  # whether what could be proved is not below the product of norms
        self.norms: list[float] = []
        self.proved = ProvedBlock(self.product, self.product)
        self.gap = math.nan
        self.status = ""
        self.rounds = 0  # of the power iteration
        self.iterating = 0.0  # seconds of it
        self.tightening = 0.0  # seconds, beside the proof that was predicted
        self.seconds = 0.0

    @cached_property
    def _neurons(self) -> int:
        return sum(part.neurons for part in self.parts)

    @cached_property
    def freed(self) -> list[FreedNetwork]:
        """The matrices of the parts, for solvers and proofs that need them written out."""
        return [FreedNetwork.assemble(part) for part in self.parts]

    def jobs(self, norms: Sequence[float]) -> list[Job]:
        """What a conic solver is asked; `norms` are those of the whole network's nodes."""
        share = self.block.seconds / max(len(self.parts), 1)
        found = []
        for j, (part, freed) in enumerate(zip(self.parts, self.freed, strict=True)):
            known = block_norms(norms, self.block) if self.block.kind == "whole" else node_norms(part, HINTS)
            problem = Problem.build(part, freed, product_bounds(part, known))
            found.append(Job(problem, self._earlier.get(self._key(j), {}), share))
        return found

    @property
    def _earlier(self) -> Mapping[str, Mapping[str, Array]]:
        """What the solver left last time, by part."""
        return self.warm.solver_state if self.warm is not None else {}

    def may_improve(self) -> bool:
        """Whether more iterations could gain something, and another proof costs little."""
        if self.config.solver != "power" or not self.proposals or self.proposals[0].status.is_interrupted:
            return False
        late = time.monotonic() + self.block.seconds > self.deadline
        if self._neurons > LARGE and not self.multipliers and not self.futile:
            return self.rounds < 2 and not late  # once more, in double precision
        rounds = _MENDED_ROUNDS if self.has_mended else _ROUNDS
        return self.is_cheap and self.rounds < rounds and not late and not self.gap <= self._enough

    @property
    def _enough(self) -> float:
        """How far above the relaxation's value a cheap proof may be."""
        return self.config.tolerance * (0.1 if self._neurons <= _SMALL else 3.0 if self._resumes else 1.0)

    def iterate(self, optimise: bool) -> None:
        """Proposals of the power iteration, which needs the parts themselves, and no matrix."""
        began = time.monotonic()
        if not self.parts or not (optimise or self._earlier.get(self._key(0))):
            return
        left = None
        if self.deadline < math.inf:  # the proof needs its share
            reserved = self.block.seconds if self.block.proof != "dense" else 0.2 * self.block.seconds
            total = self.deadline - time.monotonic()
            left = max(total - reserved, 0.3 * total)
        known = dict(self._earlier)
        if self.proposals:  # another round: on from where the last one ended
            known |= self.solver_state()
        single = self._neurons > LARGE and self.rounds == 0
        options = PowerOptions(
            tolerance=self.config.tolerance * self._aim * 0.1**self.rounds,
            max_iterations=min(self.config.max_iterations, self._most_iterations) if optimise else _REFRESH,
            seed=self.config.seed,
            max_seconds=left,
            tied=self.block.multipliers == "channel",
            most_vectors=self._most_vectors(4 if single else 8),
            stir=0.0 if self.rounds else _STIR,
            dtype=torch.float32 if single else torch.float64,
            device=self.device,
        )
        if self._jointly:
            own = self.block.tiling(self.block.network(self.network))
            found = power.propose_tiles(own, options, known.get(self._key(0)))
        else:
            later = True
            if self.block.multipliers == "both" and self.rounds == 0:
                options, later = self._propose_tied(options, known)
            if later:
                found = [power.propose(part, options, known.get(self._key(j))) for j, part in enumerate(self.parts)]
            else:
                found, self.tied = [self.tied or power.propose(self.parts[0], options)], None
        before = self.proposals or found
        self.proposals = [
            dataclasses.replace(new, iterations=new.iterations + (old.iterations if self.rounds else 0))
            for new, old in zip(found, before, strict=True)
        ]
        self.rounds += 1
        self.iterating += time.monotonic() - began
        self.seconds += time.monotonic() - began

    def _propose_tied(
        self, options: PowerOptions, known: Mapping[str, Mapping[str, Array]]
    ) -> tuple[PowerOptions, bool]:
        """First one multiplier per channel; returns the options of what follows, and whether there is time for it.

        Where half of the time was over before even those were found, the rest is better spent on them.
        """
        began = time.monotonic()
        half = None if options.max_seconds is None else options.max_seconds / 2
        steps = min(_TIED_STEPS, options.max_iterations)
        few = dataclasses.replace(options, tied=True, max_iterations=steps, max_seconds=half)
        self.tied = power.propose(self.parts[0], few, known.get(self._key(0) + _TIED_KEY))
        if options.max_seconds is None:
            return options, True
        left = max(options.max_seconds - (time.monotonic() - began), 0.0)
        if self.tied.status.is_inaccurate and self.tied.status.has_no_time:
            few = dataclasses.replace(few, max_seconds=left, stir=0.0)
            more = power.propose(self.parts[0], few, self.tied.state)
            self.tied = more if more.multipliers is not None else self.tied
            return options, False
        return dataclasses.replace(options, max_seconds=left), True

    @property
    def _most_iterations(self) -> int:
        hurried = self.block.multipliers == "channel" and self.config.multipliers == "auto"
        return _HURRIED_STEPS if hurried else _MOST_ITERATIONS

    def _most_vectors(self, size: int) -> int:
        """What the iteration's state leaves of the memory that a proof may take, at so many bytes per number."""
        entries = sum(node.size for part in self.parts for node in part.nodes)
        return min(64, int(usable_memory(self.config) / (_COPIES * entries * size)))

    @property
    def _aim(self) -> float:
        """Of the iteration's change of value over ten steps, in units of the tolerance."""
        if self._resumes and self.rounds == 0 and self._neurons > _SMALL:
            return 1e-1
        return 1e-2 if _SMALL < self._neurons <= LARGE else 1e-3

    @property
    def _resumes(self) -> bool:
        """Whether the iteration starts from where one for slightly different weights ended."""
        return self.rounds <= 1 and bool(self._earlier.get(self._key(0)))

    @property
    def _jointly(self) -> bool:
        """Whether tiles are optimised for the merged form."""
        entries = self.network.nodes[self.block.start].size
        by_power = self.config.solver == "power" and self.config.merge == "form"
        return by_power and self.block.kind == "tiles" and entries <= LARGEST_MATRIX

    def prove(self) -> None:
        """The best bound that the proposals, or else the last multipliers, prove; the product of norms in any case."""
        if not self.parts and self.product > 0 and self._might_gain():
            self.status = "no LMI of it fits into memory or time; the product of norms"
        if not self.parts or self.product == 0:
            return
        began = time.monotonic()
        failed = [proposal.status for proposal in self.proposals if proposal.multipliers is None]
        self.status = "; ".join(dict.fromkeys(failed or [p.status for p in self.proposals])) or "not solved"
        if self.block.kind == "tiles":
            self._prove_tiles()
        elif self.block.proof == "dense":
            self._prove_dense()
        else:
            self._prove_by_steps()
        if not self.multipliers:
            self.status += "; not below the product of norms" if self.futile else "; no proof"
        self.gap = self._gap()
        self.seconds += time.monotonic() - began

    def _gap(self) -> float:
        """How far what is proved is above what the solver had in mind, at worst over the parts."""
        if not self.multipliers or not self.proposals:
            return math.nan
        values = [p.value for p in self.proposals]
        if self.block.kind == "whole":
            return sqrt_up(self.rho) / values[0] - 1 if values[0] > 0 else math.nan
        if self._jointly:
            return self.proved.bound / values[0] - 1 if values[0] > 0 else math.nan
        norms = [math.sqrt(norm) for norm in self.norms]
        return max((norm / v - 1 for norm, v in zip(norms, values, strict=True) if v > 0), default=math.nan)

    def _is_late(self) -> bool:
        """Whether the deadline is over; the status says so."""
        late = time.monotonic() > self._proofs_end
        if late:
            self._say_late()
        return late

    @property
    def _proofs_end(self) -> float:
        """When proofs give up: those that take little may come a little late, for what was solved is not to be lost."""
        return self.deadline + (_GRACE if self._neurons <= _SMALL else 0.0)

    def _say_late(self) -> None:
        self.status += "" if self.status.endswith((_LATE, "(no time left)")) else _LATE

    def _prove_tiles(self) -> None:
        if self._is_late():
            return
        found = [self._chosen(j) for j in range(len(self.parts))]
        multipliers = [chosen[0] for chosen in found if chosen is not None]
        if len(multipliers) < len(self.parts):
            return
        tiling = self.block.tiling(self.block.network(self.network))
        for slack in slacks(max(freed.n_x + freed.neurons for freed in self.freed)):
            if self._is_late():
                return
            proof = prove_tiles(tiling, self.freed, multipliers, slack, self.config.merge)
            if proof is None:
                continue
            if proof.bound >= self.proved.bound < self.product:
                return  # an earlier round was better
            self.multipliers, self.slack = tuple(multipliers), slack
            self.proved = ProvedBlock(min(proof.bound, self.product), self.product, proof.merges)
            self.norms = [chosen[1] for chosen in found if chosen is not None]
            return

    def _prove_dense(self) -> None:
        """The smallest rho for the multipliers, numerically, and a little above it."""
        if self._is_late():
            return
        chosen = self._chosen(0)
        if chosen is None:
            return
        t, norm = chosen
        for slack in slacks(self.freed[0].n_x + self.freed[0].neurons):
            if self._is_late():
                return
            rho = norm * (1 + slack) + SMALLEST_FORM
            if self._claim(t, rho, 0.0):
                return

    def _prove_by_steps(self) -> None:
        """Proposals with a larger and larger clearance: each proof may take long, and few are needed."""
        proposals = [*self.proposals, *([self.tied] if self.tied is not None else [])]
        candidates = [
            (p.multipliers, p.value**2, p.directions)
            for p in proposals if p.multipliers is not None and p.value > 0
        ]  # fmt: skip
        if self.warm is not None and self._has_warm_multipliers(self.warm):
            rho = float(self.warm.certificate.forms[self.index].max())
            candidates.append((self.warm.certificate.multipliers[self.index][0], rho, None))
        tolerance = self.config.tolerance
        # No multipliers prove less than a value of the relaxation, but for its rounding.
        known = self.config.solver == "power" and self.proposals and self.proposals[0].value > 0
        least = self.proposals[0].value ** 2 * (1 - 1e-4) if known else 0.0
        if self._is_late():
            return
        if self._is_hopeless():
            self._say_late()
            return
        for attempt in self._in_order(candidates, min(len(proposals), len(candidates)) > 1):
            if attempt.step == math.inf:
                self._say_late()
            t, rho, step, clearance = attempt.t, attempt.rho, attempt.step, attempt.clearance
            refused, mended_now = 0, False
            while step < (1 if self._neurons <= LARGE else 0.2 + 6 * clearance):
                if self._is_late():
                    return
                larger, claimed = enlarged_uniformly(self.parts[0], t, rho, step)
                if not claimed < self.product**2:
                    self.futile = self.futile or not (refused or self.multipliers)
                    break
                if self.rho and claimed >= self.rho:
                    break  # an earlier round was better
                if claimed < least:
                    step = max(2 * step, tolerance / 10)
                    continue
                try:
                    if self._claim(larger, claimed, clearance):
                        return
                    refused += 1
                except OutOfTimeError as late:
                    step, clearance = self._hurried(
                        ScaledForm(self.parts[0], t, rho, self.device), step, clearance, late
                    )
                    if step == math.inf:
                        self._say_late()
                    continue
                if not mended_now and self._may_mend:
                    mended_now = self.has_mended = True
                    t, step = self._mended(t, rho, step)
                    continue
                # Where a proof is dear, a larger clearance costs less than to iterate on, at first.
                if self.may_improve() and not mended_now and refused > (self._neurons > LARGE):
                    return
                step = max(2 * step, tolerance / 10)

    @property
    def _may_mend(self) -> bool:
        """Whether to look for the directions that a refused proof has seen; at first, iterating further takes less."""
        return self.is_cheap and not self._resumes and self.deadline == math.inf

    def _mended(self, t: Array, rho: float, step: float) -> tuple[Array, float]:
        """(multipliers, step) of the next try: adjusted in directions that nobody saw, or else a larger step."""
        known = next((p.directions for p in self.proposals if p.directions is not None), None)
        if known is None:
            return t, 2 * step
        better, missing = adjusted_in_new_span(self.parts[0], t, rho, known, 0.05 * self.config.tolerance, self.device)
        if not missing < 0.05:
            return t, 2 * step
        gain = 1.2 * missing + 0.05 * self.config.tolerance  # some of it is unseen
        return better, (1 - gain) ** -2 - 1

    def tighten(self) -> None:
        """The smallest rho that the multipliers prove, to a hundredth of the tolerance, where a proof takes little.

        The value of the relaxation is below it. What is claimed is a little above the smallest that was accepted, so
        that another machine's rounding accepts it, too.
        """
        wanted = self.block.proof == "sparse" and self._neurons <= _TIGHTENED and self.warm is None
        if not (wanted and self.multipliers and self.proposals and self.proposals[0].value > 0):
            return
        began = time.monotonic()
        (t,), low, high = self.multipliers, (self.proposals[0].value * (1 - 1e-9)) ** 2, self.rho
        longest = 0.0
        for _ in range(_MOST_BISECTIONS):
            now = time.monotonic()  # one more and the last one, which keeps what it found, are to end in time
            if high <= low * (1 + self.config.tolerance / 50) or now + 2 * longest > self.deadline:
                break
            middle = math.sqrt(low * high)
            accepted = proves(Claim(t, middle, "sparse"), self.parts[0], self._means())
            low, high = (low, middle) if accepted else (middle, high)
            longest = max(longest, time.monotonic() - now)
        self._claim(t, high * (1 + 2e-7), 0.0)
        self.gap = self._gap()
        self.tightening = time.monotonic() - began
        self.seconds += self.tightening

    def _in_order(self, candidates: Sequence[_Candidate], compared: bool) -> Iterator[_Attempt]:
        """The first two by what they are likely to prove, if asked."""
        if not compared:
            yield from (self._first_step(*candidate) for candidate in candidates)
            return
        one = self._first_step(*candidates[0])
        if one.step == math.inf:  # there is no time for one, let alone for two
            yield one
            return
        claimed = enlarged_uniformly(self.parts[0], one.t, one.rho, one.step)[1]
        if one.hopeful and claimed <= candidates[1][1]:  # the other's value is above what this one is likely to prove
            yield one
            yield from self._in_order(candidates[1:], False)
            return
        other = self._first_step(*candidates[1])
        both = [(one, claimed), (other, enlarged_uniformly(self.parts[0], other.t, other.rho, other.step)[1])]
        yield from (attempt for attempt, _ in sorted(both, key=lambda pair: (not pair[0].hopeful, pair[1])))
        yield from self._in_order(candidates[2:], False)

    def _hurried(self, form: ScaledForm, step: float, clearance: float, late: OutOfTimeError) -> tuple[float, float]:
        """(step, clearance) of a proof that takes less time than the one that would have been late."""
        wider = self._clearance(form, late.seconds / VECTORS[0], 1.25 * clearance)
        gain = 1 - (1 + step) ** -0.5 + 1.2 * (wider - clearance)
        _LOG.info("A proof with a clearance of %.2g would be late; trying %.2g.", clearance, wider)
        return ((1 - gain) ** -2 - 1, wider) if wider <= 1.25 * LARGEST_CLEARANCE else (math.inf, wider)

    def _first_step(self, t: Array, rho: float, directions: Directions | None) -> _Attempt:
        """What to try first: multipliers adjusted, and with clearances where they are missing.

        The smallest eigenvalue grows by 1 - (1 + step)^(-1/2). How far it is below zero is estimated beforehand.
        """
        tolerance, part = self.config.tolerance, self.parts[0]
        # The time that a vector takes through LipSDP's matrix, where time is short: some 40 adjust the multipliers.
        unit = self._seconds_per_vector(ScaledForm(part, t, rho, self.device)) if self.deadline < math.inf else 0.0
        if directions is not None:
            large = _COPIES_TO_ADJUST * directions.values.nbytes > usable_memory(self.config)
            directions = None if large or 40 * unit > 0.1 * self._left else directions
        missing, clearance = tolerance / 4, 0.0
        if directions is not None:
            t, missing = adjusted_in_span(part, t, rho, directions, self.device)
        if self.block.proof == "randomised":
            clearance = self._clearance(ScaledForm(part, t, rho, self.device), unit)
            if clearance == math.inf:
                return _Attempt(t, rho, math.inf, clearance, False)
        wanted = max(1.2 * clearance, (0.02 if self._neurons <= _SMALL else 0.05) * tolerance)
        if self._neurons > LARGE or clearance:  # another proof would take longer than a better estimate
            # What Lanczos' method may not see should be less than the clearance.
            steps = lanczos_steps(part, tolerance)
            steps = FEWEST_STEPS if unit and steps * unit > 0.1 * self._left else steps
            steps = min(steps, int(3 / clearance**0.5) + 1) if clearance else steps
            rounds = self._rounds_of_clearances(steps, unit)
            if rounds:
                single = torch.float32 if self._neurons > LARGE else torch.float64
                enough = 3 * tolerance
                limit = time.monotonic() + 0.4 * self._left
                t, rho, missing = enlarged_as_needed(
                    part, t, rho, wanted, steps, rounds, enough, self.device, single, limit
                )
                wanted = 0.0  # is in what is missing
            else:
                larger, claimed = enlarged_uniformly(part, t, rho, max(tolerance, clearance))
                form = ScaledForm(part, larger, claimed, self.device)
                limit = time.monotonic() + 0.4 * self._left
                smallest = extreme_eigenvalues(form, steps, deadline=limit)[0] - 4 / steps**2
                missing = max(max(tolerance, clearance) / 2 - smallest, 0.0 if directions is None else missing)
        if not missing < 0.1:
            return _Attempt(t, rho, (1 - 1.2 * clearance) ** -2 - 1 if clearance else tolerance, clearance, False)
        return _Attempt(t, rho, (1 - max(missing, 0.0) - wanted) ** -2 - 1, clearance, True)

    def _rounds_of_clearances(self, steps: int, unit: float) -> int:
        """How often clearances by layer are looked for, which keeps `steps` vectors: as memory and time allow."""
        part = self.parts[0]
        if 16 * steps * (part.nodes[0].size + part.neurons) > usable_memory(self.config):
            return 0
        return min(_CLEARANCE_ROUNDS, int(0.2 * self._left / (3 * steps * unit)) if unit else _CLEARANCE_ROUNDS)

    @property
    def _left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.0)

    def _seconds_per_vector(self, form: ScaledForm) -> float:
        probe = torch.ones(VECTORS[0], form.n, dtype=torch.float64, device=self.device)
        began = time.monotonic()
        form(probe[:1])
        found = time.monotonic() - began
        if _FEWEST_VECTORS / 2 * found > self._left:  # nor will several at once take half of that each
            return found
        found = math.inf
        for _ in range(2):  # the first time takes longer
            began = time.monotonic()
            form(probe)
            found = min(found, time.monotonic() - began)
            if found > 0.02 * self._left:
                break
        return found / len(probe)

    def _is_hopeless(self) -> bool:
        """Whether even a randomised proof of the largest clearance would be late, by what the iteration took."""
        steps = sum(p.iterations for p in self.proposals)
        if self.block.proof != "randomised" or self.deadline == math.inf or not steps:
            return False
        vectors = max(len(p.state.get("x", (0,))) for p in self.proposals)
        return _FEWEST_VECTORS * self.iterating / steps / vectors > 2 * self._left

    def _clearance(self, form: ScaledForm, unit: float, least: float = 0.0) -> float:
        """Of a randomised proof: a share of the tolerance, or more where most of the time left would not do.

        Args:
            form: the matrix.
            unit: seconds that a vector takes through it; 0 where time does not count.
            least: that it may be.

        Returns:
            The clearance; infinite where not even the largest leaves enough time.
        """
        clearance = max(randomised_clearance(self.parts[0], self.config.tolerance), least)
        if not unit:
            return clearance
        p = share_of_probability(self.plan, self.config.failure_probability)
        least_of_all = course(form, LARGEST_CLEARANCE, p, 2.0, 0.0)
        if least_of_all is None or unit * least_of_all[0] * least_of_all[1] > self._left:
            return math.inf
        lost = largest_loss(form)
        needed = math.inf
        while clearance < LARGEST_CLEARANCE:
            found = course(form, clearance, p, 2.0, lost)
            needed = math.inf if found is None else unit * (found[0] * found[1] + _BESIDE)
            if needed <= 0.8 * self._left:
                return clearance
            clearance *= 1.25
        return clearance if needed <= self._left else math.inf

    @property
    def is_lost(self) -> bool:
        """Whether the product of norms stands in for a bound that multipliers might have proved.

        Where the relaxation is worth the product, up to the tolerance, no multipliers prove less.
        """
        if self.product == 0 or self.multipliers:
            return self.product > 0 and any(p.multipliers is None for p in self.proposals)
        if not self.parts:
            return self._might_gain()
        value = self.proposals[0].value if self.config.solver == "power" and self.proposals else math.nan
        return not (self.futile and value * (1 + 2 * self.config.tolerance) >= self.product)

    def _might_gain(self) -> bool:
        """Whether there are activations between weights."""
        own, weights, bent = self.block.network(self.network), False, False
        for node in own.nodes:
            if isinstance(node.layer, Activation):
                bent = weights
            elif isinstance(node.layer, (Conv2d, Linear)):
                weights = True
                if bent:
                    return True
        return False

    @property
    def is_cheap(self) -> bool:
        """Whether trying a proof takes little."""
        return self._neurons <= {"dense": _SMALL, "sparse": LARGE}.get(self.block.proof, 0)

    def _claim(self, t: Array, rho: float, clearance: float) -> bool:
        """Try to prove sqrt(rho) for the block, and keep it if that succeeds."""
        if self.rho and rho >= self.rho:
            return False
        kind = self.block.proof
        probability = share_of_probability(self.plan, self.config.failure_probability) if errs(kind) else 0.0
        claim = Claim(t, rho, kind, clearance, probability)
        if not proves(claim, self.parts[0], self._means()):
            return False
        self.multipliers, self.slack, self.rho = (t,), clearance, rho
        self.proved = ProvedBlock.of_form(claim, self.product)
        return True

    @property
    def form(self) -> Array:
        """What is proved at the input, for a certificate; empty where there is none."""
        return np.array([self.rho] if self.rho else [])

    def _means(self) -> Means:
        freed = self.freed[0] if self.block.proof == "dense" else None
        return Means(HINTS, freed, self.deadline, self.device)

    def _chosen(self, j: int) -> tuple[Array, float] | None:
        """The proposed multipliers of part j, or the last ones where those are better, made feasible; with the norm."""
        layers = [self.parts[j].nodes[i].size for i in self.parts[j].activations]
        proposal = self.proposals[j] if j < len(self.proposals) else None
        value = proposal.value if proposal is not None and proposal.value > 0 else 0.0
        enough = value * value * (1 + 0.1 * self.config.tolerance) ** 2
        best: tuple[Array, float] | None = None
        if proposal is not None and proposal.multipliers is not None:
            best = enlarged_until_feasible(
                proposal.multipliers, layers, lambda t: form_norm(self.freed[j], t), enough, self._proofs_end
            )
        if self.warm is not None and (best is None or best[1] > enough) and self._has_warm_multipliers(self.warm):
            last = self.warm.certificate.multipliers[self.index][j]
            other = enlarged_until_feasible(
                last, layers, lambda t: form_norm(self.freed[j], t), enough, self._proofs_end
            )
            best = min((found for found in (best, other) if found is not None), key=lambda f: f[1], default=None)
        return best

    def _has_warm_multipliers(self, warm: WarmStart) -> bool:
        if not warm.certificate.multipliers[self.index]:
            return False
        try:
            checked_multipliers(warm.certificate.multipliers[self.index], self.parts, f"block {self.index}")
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
        left = {key: p.state for key, p in zip(keys, self.proposals, strict=False) if p.state}
        if self.tied is not None and self.tied.state:
            left[self._key(0) + _TIED_KEY] = self.tied.state
        return kept | left

    def row(self) -> dict[str, Any]:
        """Of the report's table."""
        return {
            "block": self.index,
            "layers": " .. ".join(dict.fromkeys(self.block.layers)),
            "method": self.block.method,
            "rows": ", ".join(map(str, self.block.variables)) or None,
            "tiles": self.block.tiles or None,
            "product": self.proved.product,
            "bound": self.proved.bound,
            **{name: self.proved.merges.get(name) for name in ("sum", "coverage", "form")},
            "proof": self.block.proof if self.multipliers else None,
            "reason": self.block.reason or None,
            "gap": None if math.isnan(self.gap) else self.gap,
            "status": self.status or None,
            "iterations": sum(p.iterations for p in [*self.proposals, *([self.tied] if self.tied else [])]) or None,
            "seconds": self.seconds,
        }
