"""Rounds of the power iteration, and when another one is worth its time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

import torch

from lipguard.certifying.budget import Budget
from lipguard.certifying.proposals import Array, Proposals, is_interrupted, is_out_of_time, tied_key
from lipguard.certifying.standing import Standing
from lipguard.certifying.subject import Subject
from lipguard.proposing.power import run as power
from lipguard.proposing.power.options import PowerOptions
from lipguard.proposing.proposal import Proposal

_MOST_ITERATIONS = 400  # of the power iteration; its value stands still long before
_ROUNDS = 4  # in which the iteration goes on where a cheap proof left a gap
_MENDED_ROUNDS = 2  # where it is not the iteration that leaves it
_ROUNDS_WITHOUT_PROOF = 2  # of a large block: the second one is in double precision
_COPIES = 40  # of every vector that the iteration, and what follows it, keep at once
_MOST_VECTORS = 64
_REFRESH = 10  # where nothing is to be optimised: what brings the multipliers to the new weights
_STIR = 0.1  # noise on the last epoch's vectors
_TIED_STEPS = 80  # that find one multiplier per channel, before those per neuron are looked for
_HURRIED_STEPS = 25  # where there is time for those only: what is left makes for a proof with a smaller clearance


def are_worth_it(subject: Subject, proposals: Proposals, standing: Standing, budget: Budget) -> bool:
    """Whether more iterations could gain something, and another proof costs little."""
    if not subject.by_power or not proposals.found or is_interrupted(proposals.found[0]):
        return False
    late = budget.is_over(ahead=subject.block.seconds)
    if subject.is_large and not standing.multipliers and not standing.is_futile:
        return proposals.rounds < _ROUNDS_WITHOUT_PROOF and not late
    rounds = _MENDED_ROUNDS if standing.has_mended else _ROUNDS
    close = standing.gap <= _enough(subject, proposals)
    return subject.is_cheap and proposals.rounds < rounds and not late and not close


def resumes(subject: Subject, proposals: Proposals) -> bool:
    """Whether the iteration starts from where one for slightly different weights ended."""
    return proposals.rounds <= 1 and subject.has_earlier


def propose(subject: Subject, proposals: Proposals, budget: Budget, optimise: bool) -> Proposals:
    """Those of another round, which needs the parts themselves, and no matrix.

    Args:
        subject: the block.
        proposals: of the rounds before.
        budget: of time, of which a proof keeps its share, and of memory.
        optimise: False does a few steps only, and none from scratch.
    """
    began = time.monotonic()
    if not subject.parts or not (optimise or subject.has_earlier):
        return proposals
    options = _options(subject, proposals, budget, optimise)
    known = dict(subject.earlier)
    if proposals.found:  # another round: on from where the last one ended
        known |= proposals.state(subject)
    tied, is_last = proposals.tied, False
    if subject.block.multipliers == "both" and not subject.is_joint and proposals.rounds == 0:
        tied, options, is_last = _tied(subject, options, known)
    if subject.is_joint:
        found = power.propose_tiles(subject.tiling(), options, known.get(subject.key(0)))
    elif is_last and tied is not None:
        found, tied = [tied], None
    else:
        found = [power.propose(part, options, known.get(subject.key(j))) for j, part in enumerate(subject.parts)]
    if proposals.rounds:
        found = [
            dataclasses.replace(new, iterations=new.iterations + old.iterations)
            for new, old in zip(found, proposals.found, strict=True)
        ]
    return Proposals(tuple(found), tied, proposals.rounds + 1, proposals.seconds + time.monotonic() - began)


def _options(subject: Subject, proposals: Proposals, budget: Budget, optimise: bool) -> PowerOptions:
    config, block = subject.config, subject.block
    most = _MOST_ITERATIONS
    if block.multipliers == "channel" and config.multipliers == "auto":
        most = _HURRIED_STEPS
    single = subject.is_large and proposals.rounds == 0
    return PowerOptions(
        tolerance=config.tolerance * _aim(subject, proposals) * 0.1**proposals.rounds,
        max_iterations=min(config.max_iterations, most) if optimise else _REFRESH,
        seed=config.seed,
        max_seconds=_seconds(subject, budget),
        tied=block.multipliers == "channel",
        most_vectors=_most_vectors(subject, budget, 4 if single else 8),
        stir=0.0 if proposals.rounds else _STIR,
        dtype=torch.float32 if single else torch.float64,
        device=budget.device,
    )


def _seconds(subject: Subject, budget: Budget) -> float | None:
    """What the proof leaves of the time; None where time does not count."""
    if not budget.is_limited:
        return None
    reserved = subject.block.seconds if subject.block.proof != "dense" else 0.2 * subject.block.seconds
    total = budget.deadline - time.monotonic()
    return max(total - reserved, 0.15 * total)


def _tied(
    subject: Subject, options: PowerOptions, known: Mapping[str, Mapping[str, Array]]
) -> tuple[Proposal, PowerOptions, bool]:
    """First one multiplier per channel; with the options of what follows, and whether nothing is to follow.

    Nothing is after Ctrl-C, nor where half of the time was over before even those were found: the rest is better spent
    on them.
    """
    began = time.monotonic()
    half = None if options.max_seconds is None else options.max_seconds / 2
    steps = min(_TIED_STEPS, options.max_iterations)
    few = dataclasses.replace(options, tied=True, max_iterations=steps, max_seconds=half)
    tied = power.propose(subject.parts[0], few, known.get(tied_key(subject)))
    if options.max_seconds is None or is_interrupted(tied):
        return tied, options, is_interrupted(tied)
    left = max(options.max_seconds - (time.monotonic() - began), 0.0)
    if is_out_of_time(tied):
        few = dataclasses.replace(few, max_seconds=left, stir=0.0)
        more = power.propose(subject.parts[0], few, tied.state)
        return more if more.multipliers is not None else tied, options, True
    return tied, dataclasses.replace(options, max_seconds=left), False


def _most_vectors(subject: Subject, budget: Budget, size: int) -> int:
    """What the iteration's state leaves of the memory that a proof may take, at so many bytes per number."""
    entries = sum(node.size for part in subject.parts for node in part.nodes)
    return min(_MOST_VECTORS, int(budget.memory / (_COPIES * entries * size)))


def _aim(subject: Subject, proposals: Proposals) -> float:
    """Of the iteration's change of value over ten steps, in units of the tolerance."""
    if resumes(subject, proposals) and proposals.rounds == 0 and not subject.is_small:
        return 1e-1
    return 1e-3 if subject.is_small or subject.is_large else 1e-2


def _enough(subject: Subject, proposals: Proposals) -> float:
    """How far above the relaxation's value a cheap proof may be."""
    return subject.config.tolerance * (0.1 if subject.is_small else 3.0 if resumes(subject, proposals) else 1.0)
