"""What is known of a network before anything is proposed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lipguard.certifying.request import Request
from lipguard.planning.plan import PartitionPlan
from lipguard.trusted.network.graph import Network


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request with all that its blocks start from.

    Attributes:
        request: what is to be certified; its warm start is one of this plan.
        network: what is bounded: the request's, on its domain.
        plan: of the network.
        norms: of the network's nodes.
    """

    request: Request
    network: Network
    plan: PartitionPlan
    norms: Sequence[float]
