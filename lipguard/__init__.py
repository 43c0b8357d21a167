"""Certified Lipschitz bounds of a network while it trains.

The names below are the public interface. They are imported on first use, so that worker processes, and programs that
only verify, load neither Lightning nor a solver.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lipguard.callbacks.lipschitz_monitor import LipschitzMonitor as LipschitzMonitor
    from lipguard.certification import certify as certify
    from lipguard.certification import plan as plan
    from lipguard.config import DCPConfig as DCPConfig
    from lipguard.many import certify_many as certify_many
    from lipguard.margins import Margins as Margins
    from lipguard.margins import certify_margins as certify_margins
    from lipguard.margins import verify_margin as verify_margin
    from lipguard.metrics.certified_accuracy import CertifiedAccuracy as CertifiedAccuracy
    from lipguard.metrics.lipschitz_bound import LipschitzBound as LipschitzBound
    from lipguard.penalty import LipschitzPenalty as LipschitzPenalty
    from lipguard.report import Report as Report
    from lipguard.selection import select as select
    from lipguard.trusted.certificate.certificate import Certificate as Certificate
    from lipguard.trusted.reading.lowering import register as register
    from lipguard.trusted.regions.region import Ball as Ball
    from lipguard.trusted.regions.region import Box as Box
    from lipguard.verification import verify as verify

_HOMES = {
    "Ball": "lipguard.trusted.regions.region",
    "Box": "lipguard.trusted.regions.region",
    "Certificate": "lipguard.trusted.certificate.certificate",
    "CertifiedAccuracy": "lipguard.metrics.certified_accuracy",
    "DCPConfig": "lipguard.config",
    "LipschitzBound": "lipguard.metrics.lipschitz_bound",
    "LipschitzMonitor": "lipguard.callbacks.lipschitz_monitor",
    "LipschitzPenalty": "lipguard.penalty",
    "Margins": "lipguard.margins",
    "Report": "lipguard.report",
    "certify": "lipguard.certification",
    "certify_many": "lipguard.many",
    "certify_margins": "lipguard.margins",
    "plan": "lipguard.certification",
    "register": "lipguard.trusted.reading.lowering",
    "select": "lipguard.selection",
    "verify": "lipguard.verification",
    "verify_margin": "lipguard.margins",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
