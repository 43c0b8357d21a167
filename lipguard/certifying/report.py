"""What a certification returns, a value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lipguard.certifying.status import Status
from lipguard.certifying.warm_start import WarmStart
from lipguard.planning.plan import PartitionPlan
from lipguard.planning.table import table
from lipguard.trusted.certificate.certificate import Certificate


@dataclass(frozen=True, eq=False)
class Report:
    """A certified bound, how it came about, and what surrounds it.

    Attributes:
        bound: certified upper bound of the Lipschitz constant, l2 to l2, over all inputs.
        product_bound: certified product of layer norms; `bound` never exceeds it.
        lower_bound: the largest Jacobian norm found, less its rounding; `bound` is never below it. 0 without one.
        relaxation_gap: bound / value of the relaxation - 1, at worst over the blocks: what better multipliers could
            still gain. The power iteration's value is a lower bound of LipSDP's optimum (in floating point), so its
            gap bounds what the proof and the stopping rule gave away; a conic solver's is its own idea. nan without.
        proof: the weakest among the blocks': "randomised", "sparse" or "dense"; "product" where the product of norms is
            all that is proved.
        failure_probability: of the randomised proofs together; 0 for deterministic ones.
        certificate: what `lipguard.verify` checks.
        plan: the partition.
        seconds: time of the whole certification.
        status: "complete"; "reused" where nothing was optimised, "not solved" where nothing ever was; "interrupted"
            by Ctrl-C, with the best that was proved until then; "fallback: ..." with what was lost and why. A string
            that also knows its parts: `status.outcome`, `status.reason`, `status.is_fallback`, ...
        warm_start: for the next certification of this architecture.
        rows: one mapping per block, see `details`.
        restricted: of the bound on a domain, where one was asked for: never above `bound`, and true on the domain only.
        notes: which function was certified where that is not plainly the module's, and what could not be computed.
    """

    bound: float
    product_bound: float
    lower_bound: float
    relaxation_gap: float
    proof: str
    failure_probability: float
    certificate: Certificate
    plan: PartitionPlan
    seconds: float
    status: Status
    warm_start: WarmStart
    rows: tuple[Mapping[str, Any], ...] = ()
    restricted: Report | None = None
    notes: tuple[str, ...] = ()

    @property
    def tightness(self) -> float:
        """Lower bound over bound: 1 where the constant is known exactly."""
        if self.bound == 0:
            return 1.0
        return self.lower_bound / self.bound

    def details(self) -> list[dict[str, Any]]:
        """One row per block; `pandas.DataFrame(report.details())` is a table.

        Keys: block, layers, method, rows (of the LMIs), tiles, product, bound, sum, coverage, form (None where a merge
        does not apply), proof, reason (why this proof), gap (to the relaxation's value), status, iterations, seconds.
        """
        return [dict(row) for row in self.rows]

    def __str__(self) -> str:
        header = (
            "block",
            "layers",
            "method",
            "LMI rows",
            "tiles",
            "product",
            "sum",
            "coverage",
            "form",
            "bound",
            "proof",
            "solver",
        )
        keys = (
            "block", "layers", "method", "rows", "tiles", "product", "sum", "coverage", "form", "bound", "proof",
            "status",
        )  # fmt: skip
        why = [f"block {row['block']}: {row['proof']} proof: {row['reason']}" for row in self.rows if row.get("reason")]
        rows = [tuple(_cell(row.get(key)) for key in keys) for row in self.rows]
        ratio = self.bound / self.product_bound if self.product_bound > 0 else 1.0
        gap = "" if math.isnan(self.relaxation_gap) else f", relaxation gap {self.relaxation_gap:.1e}"
        within = [] if self.restricted is None else [self._within()]
        return "\n".join([
            *table(header, rows),
            *why,
            f"certified bound {self.bound:.6g}  ({ratio:.3f} of the product bound {self.product_bound:.6g})",
            f"lower bound     {self.lower_bound:.6g}  (tightness {self.tightness:.3f})",
            f"proof {self.proof}, failure probability {self.failure_probability:g}, {self.seconds:.2f} s{gap}",
            f"status {self.status}",
            *within,
            *(f"note: {note}" for note in self.notes),
        ])  # fmt: skip

    def _within(self) -> str:
        other = self.restricted
        assert other is not None
        return f"on the domain: bound {other.bound:.6g}, lower bound {other.lower_bound:.6g}, {other.seconds:.2f} s"


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
