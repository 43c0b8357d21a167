"""What a measurement says, as plain values: rows of the history, and which of them are logged, and how."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch

from lipguard.certifying.margins import CERTIFIED_ACCURACY
from lipguard.certifying.report import Report
from lipguard.trusted.rounding import to_float32_down, to_float32_up

Row: TypeAlias = dict[str, Any]  # plain values: it is broadcast, and stored in checkpoints

LOGGED = ("bound", "product_bound", "lower_bound", "tightness", "seconds")
ROUNDED_UP = ("bound", "product_bound")
CERTIFIED = (CERTIFIED_ACCURACY, "average_certified_radius", "selection")


def precise(device: torch.device) -> torch.dtype:
    """What a device logs in: float64, if it has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def values_of(report: Report, status: str) -> Row:
    """A report as plain values."""
    return {
        "bound": float(report.bound),
        "product_bound": float(report.product_bound),
        "lower_bound": float(report.lower_bound),
        "tightness": float(report.tightness),
        "seconds": float(report.seconds),
        "status": status,
        "digest": str(report.certificate.digest),
    }


def failed(reason: str, seconds: float) -> Row:
    """The row of weights that have no bound."""
    return {
        "bound": math.inf,  # a true upper bound, and monitors find their key
        "product_bound": math.inf,
        "lower_bound": 0.0,
        "tightness": 0.0,
        "seconds": seconds,
        "status": f"failed: {reason}",
        "digest": None,
    }


def narrowed(value: float, *, up: bool) -> float:
    """The value rounded to a float32, upward or downward."""
    if abs(value) > torch.finfo(torch.float32).max:
        return value  # a logger that narrows makes it infinite; monitors still see the number
    return to_float32_up(value) if up else to_float32_down(value)
