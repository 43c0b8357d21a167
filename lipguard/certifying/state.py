"""A block on its way from proposals to a proof: every step gives another value."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lipguard.certifying.prepared import Prepared
from lipguard.certifying.proposals import Proposals
from lipguard.certifying.standing import Standing
from lipguard.certifying.subject import Subject
from lipguard.trusted.certificate.verify import block_product


@dataclass(frozen=True, eq=False)
class BlockState:
    """Where a block is.

    Attributes:
        subject: what does not change.
        proposals: so far.
        standing: what is proved so far.
        proving: seconds of all proofs that came to an end, and of what prepares them.
        tightening: seconds, beside the proof that was predicted.
    """

    subject: Subject
    proposals: Proposals
    standing: Standing
    proving: float = 0.0
    tightening: float = 0.0

    @property
    def seconds(self) -> float:
        """Of everything."""
        return self.proposals.seconds + self.proving + self.tightening

    @property
    def is_lost(self) -> bool:
        """Whether the product of norms stands in for a bound that multipliers might have proved.

        Where the relaxation is worth the product, up to the tolerance, no multipliers prove less.
        """
        subject, found = self.subject, self.proposals.found
        if subject.product == 0 or self.standing.multipliers:
            return subject.product > 0 and any(proposal.multipliers is None for proposal in found)
        if not subject.parts:
            return subject.might_gain
        value = self.proposals.value if subject.by_power else math.nan
        return not (self.standing.is_futile and value * (1 + 2 * subject.config.tolerance) >= subject.product)


def first_states(prepared: Prepared) -> list[BlockState]:
    """Of all blocks of a plan: nothing is proposed, and norms are all that is proved."""
    request, network, plan = prepared.request, prepared.network, prepared.plan
    states = []
    for i, block in enumerate(plan.blocks):
        product = block_product(network, prepared.norms, block)
        parts = tuple(block.parts(network))
        subject = Subject(network, plan, i, request.config, request.warm, product, parts)
        states.append(BlockState(subject, Proposals(), Standing.of_norms(product)))
    return states
