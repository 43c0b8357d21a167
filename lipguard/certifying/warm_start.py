"""What the next certification of the same architecture starts from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lipguard.errors import CertificateError
from lipguard.planning.plan import PartitionPlan
from lipguard.trusted.certificate.certificate import Certificate

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WarmStart:
    """What the next certification of the same architecture starts from: plan, multipliers, the solver's own state.

    Attributes:
        certificate: the last one, with its partition and multipliers.
        solver_state: for "block.part" the arrays that the solver left.
        points: where the search for the lower bound ended, shape (points, *input_shape).
        plan: the last one; None where it is not known, and searched for again.
    """

    certificate: Certificate
    solver_state: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    points: Array | None = None
    plan: PartitionPlan | None = None

    def to_state(self) -> dict[str, Any]:
        """Plain values for a checkpoint, which `weights_only=True` loads."""
        tensors = {
            key: {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
            for key, arrays in self.solver_state.items()
        }
        points = None if self.points is None else torch.from_numpy(self.points.copy())
        plan = None if self.plan is None else json.dumps(self.plan.to_dict())
        return {"certificate": self.certificate.to_state(), "solver": tensors, "points": points, "plan": plan}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> WarmStart:
        """The inverse of `to_state`.

        Raises:
            CertificateError: the state is not one of a warm start.
        """
        try:
            solver = {key: {name: t.numpy() for name, t in arrays.items()} for key, arrays in state["solver"].items()}
            points = state["points"]
            stored = state.get("plan")  # not there in a checkpoint of the former kind
            plan = None if stored is None else PartitionPlan.from_dict(json.loads(stored))
            known = None if points is None else points.numpy()
            return cls(Certificate.from_state(state["certificate"]), solver, known, plan)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CertificateError(f"The state is not one of a warm start: {error!r}.") from error
