"""What is to be proved: one block of a plan, with all that does not change on its way."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lipguard.certifying.warm_start import WarmStart
from lipguard.config import DCPConfig
from lipguard.errors import CertificateError
from lipguard.planning.gains import might_gain
from lipguard.planning.plan import PartitionPlan, PlannedBlock
from lipguard.planning.prices.passes import LARGE
from lipguard.trusted.certificate.verify import checked_multipliers, share_of_probability
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.tiling import Tiling
from lipguard.trusted.proofs.tiles import LARGEST_MATRIX

Array = NDArray[np.float64]
_LOG = logging.getLogger(__name__)
_SMALL = 2_000  # neurons up to which a proof takes so little that several are tried


@dataclass(frozen=True, eq=False)
class Subject:
    """One block of a plan, to be proved.

    Attributes:
        network: all of it.
        plan: of the network.
        index: of the block in the plan.
        config: the settings.
        warm: what there is from the last time, of the same plan.
        product: the product of the block's norms.
        parts: the networks that are solved: none, the block itself, or one per tile shape.
    """

    network: Network
    plan: PartitionPlan
    index: int
    config: DCPConfig
    warm: WarmStart | None
    product: float
    parts: tuple[Network, ...]

    @property
    def block(self) -> PlannedBlock:
        """As the plan has it."""
        return self.plan.blocks[self.index]

    def with_block(self, block: PlannedBlock) -> Subject:
        """The same, planned in another way."""
        blocks = (*self.plan.blocks[: self.index], block, *self.plan.blocks[self.index + 1 :])
        return dataclasses.replace(self, plan=dataclasses.replace(self.plan, blocks=blocks))

    @cached_property
    def freed(self) -> tuple[FreedNetwork, ...]:
        """The matrices of the parts, for solvers and proofs that need them written out."""
        return tuple(FreedNetwork.assemble(part) for part in self.parts)

    @cached_property
    def neurons(self) -> int:
        """Of all parts."""
        return sum(part.neurons for part in self.parts)

    @cached_property
    def rows(self) -> int:
        """Of the matrix that a proof is about: neurons, or entries of the input where there are none."""
        return sum(part.neurons or part.nodes[0].size for part in self.parts)

    @property
    def has_lmi(self) -> bool:
        """Whether there is something to prove, and to gain."""
        return bool(self.parts) and self.product != 0

    @property
    def is_small(self) -> bool:
        """Whether a proof takes so little that several are tried."""
        return self.rows <= _SMALL

    @property
    def is_large(self) -> bool:
        """Whether single precision serves to propose, and a proof takes seconds."""
        return self.rows > LARGE

    @property
    def is_cheap(self) -> bool:
        """Whether trying a proof takes little."""
        return self.rows <= {"dense": _SMALL, "sparse": LARGE}.get(self.block.proof, 0)

    @property
    def is_joint(self) -> bool:
        """Whether tiles are optimised for the merged form."""
        entries = self.network.nodes[self.block.start].size
        by_power = self.config.solver == "power" and self.config.merge == "form"
        return by_power and self.block.kind == "tiles" and entries <= LARGEST_MATRIX

    @property
    def chance(self) -> float:
        """The failure probability that a randomised proof of it may have."""
        return share_of_probability(self.plan, self.config.failure_probability)

    @property
    def might_gain(self) -> bool:
        """Whether an LMI may prove less than the product of norms."""
        return might_gain(self.block.network(self.network))

    @property
    def by_power(self) -> bool:
        """Whether the power iteration proposes: it is what finds a norm where there is no activation."""
        return self.config.solver == "power" or not self.neurons

    def tiling(self) -> Tiling:
        """Of a block of tiles."""
        return self.block.tiling(self.block.network(self.network))

    def key(self, j: int) -> str:
        """Of part j in a warm start."""
        return f"{self.index}.{j}"

    @property
    def earlier(self) -> Mapping[str, Mapping[str, Array]]:
        """What solvers left last time, by key."""
        return self.warm.solver_state if self.warm is not None else {}

    @property
    def has_earlier(self) -> bool:
        """Whether the power iteration can go on from where it ended last time."""
        return bool(self.earlier.get(self.key(0)))

    def warm_multipliers(self) -> tuple[Array, ...]:
        """The last ones, one array per part; none where there are none, or they do not fit."""
        found = () if self.warm is None else self.warm.certificate.multipliers[self.index]
        if not found:
            return ()
        try:
            checked_multipliers(found, self.parts, f"block {self.index}")
        except CertificateError as error:
            _LOG.warning("The warm start is not used: %s", error)
            return ()
        return tuple(found)
