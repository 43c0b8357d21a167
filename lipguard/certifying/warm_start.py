"""What the next certification of the same architecture starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lipguard.errors import CertificateError
from lipguard.trusted.certificate.certificate import Certificate

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WarmStart:
    """What the next certification of the same architecture starts from: plan, multipliers, the solver's own state.

    Attributes:
        certificate: the last one, with its plan and multipliers.
        solver_state: for "block.part" the arrays that the solver left.
        points: where the search for the lower bound ended, shape (points, *input_shape).
    """

    certificate: Certificate
    solver_state: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    points: Array | None = None

    def to_state(self) -> dict[str, Any]:
        """Plain values for a checkpoint, which `weights_only=True` loads."""
        tensors = {
            key: {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
            for key, arrays in self.solver_state.items()
        }
        points = None if self.points is None else torch.from_numpy(self.points.copy())
        return {"certificate": self.certificate.to_state(), "solver": tensors, "points": points}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> WarmStart:
        """The inverse of `to_state`.

        Raises:
            CertificateError: the state is not one of a warm start.
        """
        try:
            solver = {key: {name: t.numpy() for name, t in arrays.items()} for key, arrays in state["solver"].items()}
            points = state["points"]
            return cls(Certificate.from_state(state["certificate"]), solver, None if points is None else points.numpy())
        except (KeyError, TypeError, AttributeError) as error:
            raise CertificateError(f"The state is not one of a warm start: {error!r}.") from error
