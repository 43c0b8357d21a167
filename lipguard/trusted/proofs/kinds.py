"""The kinds of proofs, a row for each; what has no row is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs import dense, randomised, sparse
from lipguard.trusted.proofs.claim import Claim, Means


@dataclass(frozen=True)
class Check:
    """One kind of proof.

    Attributes:
        holds: whether the claim about a network can be proved; False says nothing.
        errs: whether it may accept what is false, with the claim's `failure_probability`.
        in_pieces: whether it takes a network that is in tiles, piece by piece.
    """

    holds: Callable[[Claim, Network, Means], bool]
    errs: bool = False
    in_pieces: bool = False


CHECKS: Mapping[str, Check] = {  # the strongest first
    "dense": Check(dense.check),
    "sparse": Check(sparse.check, in_pieces=True),
    "randomised": Check(randomised.check, errs=True),
}
DETERMINISTIC = "sparse"  # what proves at any size what a proof that errs does
OF_TILES = "dense"  # tiles have full forms, which are merged
BY_NORMS = "product"  # what needs no proof but that of norms


@np.errstate(over="ignore", invalid="ignore")  # infinite and undefined results are refused, not warned of
def proves(claim: Claim, network: Network, means: Means) -> bool:
    """Whether the claim about the whole of `network` can be proved; False says nothing.

    Raises:
        KeyError: there is no such kind of proof.
    """
    check = CHECKS[claim.kind]
    return claim.fits(network) and check.holds(claim, network, means)


def errs(kind: str) -> bool:
    """Whether a kind of proof, or none but that of norms, may accept what is false."""
    return kind != BY_NORMS and CHECKS[kind].errs


def weakest(kinds: Iterable[str]) -> str:
    """The weakest of some kinds; where there are none, norms are all."""
    used = set(kinds)
    return next((kind for kind in reversed(list(CHECKS)) if kind in used), BY_NORMS)
