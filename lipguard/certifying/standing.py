"""What is proved of a block so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipguard.certifying.proposals import Proposals
from lipguard.certifying.subject import Subject
from lipguard.trusted.certificate.verify import ProvedBlock
from lipguard.trusted.proofs.claim import Claim
from lipguard.trusted.rounding import sqrt_up

Array = NDArray[np.float64]
_LATE, _UNPROVED = "no time left", "no proof"
_SAYS_LATE = (_LATE, "(no time left)")  # how remarks end that say so


@dataclass(frozen=True, eq=False)
class Standing:
    """A value: every proof that succeeds gives another.

    Attributes:
        proved: the bound of the block; its product of norms at first.
        multipliers: that prove it, one array per part; empty where norms do.
        slack: the relative clearance that the proof needs.
        rho: the square of the bound of one LMI; 0 where there is none.
        norms: of the forms of tiles, numerically.
        gap: how far what is proved is above what the proposals are worth, at worst over the parts.
        remarks: how proposals and proofs ended, in words.
        is_futile: whether what could be proved is not below the product of norms.
        has_mended: whether multipliers were adjusted in directions that the iteration did not see.
    """

    proved: ProvedBlock
    multipliers: tuple[Array, ...] = ()
    slack: float = 0.0
    rho: float = 0.0
    norms: tuple[float, ...] = ()
    gap: float = math.nan
    remarks: tuple[str, ...] = ()
    is_futile: bool = False
    has_mended: bool = False

    @classmethod
    def of_norms(cls, product: float) -> Standing:
        """Where the product of norms is all that is proved."""
        return cls(ProvedBlock(product, product))

    @property
    def status(self) -> str:
        """The remarks as one text."""
        return "; ".join(self.remarks)

    @property
    def form(self) -> Array:
        """What is proved at the input, for a certificate; empty where there is none."""
        return np.array([self.rho] if self.rho else [])

    def reaches(self, rho: float) -> bool:
        """Whether a proof of such a square of the bound would prove no less than there is."""
        return bool(self.rho) and rho >= self.rho

    def better(self, other: Standing) -> Standing:
        """The one that proves less; the other one, where norms are all that this one has."""
        return self if other.proved.bound >= self.proved.bound < self.proved.product else other

    def with_claim(self, claim: Claim) -> Standing:
        """After a proof of one LMI."""
        (rho,) = claim.diagonal.tolist()
        proved = ProvedBlock.of_form(claim, self.proved.product)
        return dataclasses.replace(self, proved=proved, multipliers=(claim.t,), slack=claim.clearance, rho=rho)

    def begun(self, remarks: Iterable[str]) -> Standing:
        """Before another proof, with what there is to say of its proposals."""
        return dataclasses.replace(self, remarks=tuple(remarks))

    def late(self) -> Standing:
        """With the remark that time is over, unless that was said last."""
        said = bool(self.remarks) and self.remarks[-1].endswith(_SAYS_LATE)
        return self if said else dataclasses.replace(self, remarks=(*self.remarks, _LATE))

    def and_said(self, remark: str) -> Standing:
        """With one more remark, in place of the one that says no more than that there is no proof."""
        return dataclasses.replace(self, remarks=(*(r for r in self.remarks if r != _UNPROVED), remark))

    def ended(self, subject: Subject, proposals: Proposals) -> Standing:
        """After a proof: what it is worth beside the proposals, and where it failed, why."""
        remarks = self.remarks
        if not self.multipliers:
            remarks = (*remarks, "not below the product of norms" if self.is_futile else _UNPROVED)
        return dataclasses.replace(self, remarks=remarks, gap=self._gap(subject, proposals))

    def _gap(self, subject: Subject, proposals: Proposals) -> float:
        if not self.multipliers or not proposals.found:
            return math.nan
        values = [p.value for p in proposals.found]
        if subject.block.kind == "whole":
            return sqrt_up(self.rho) / values[0] - 1 if values[0] > 0 else math.nan
        if subject.is_joint:
            return self.proved.bound / values[0] - 1 if values[0] > 0 else math.nan
        norms = [math.sqrt(norm) for norm in self.norms]
        return max((norm / v - 1 for norm, v in zip(norms, values, strict=True) if v > 0), default=math.nan)
