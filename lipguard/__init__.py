"""Certified Lipschitz bounds of a network while it trains.

The names below are the public interface. They are imported on first use, so that worker processes, and programs that
only verify, load neither Lightning nor a solver.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lipguard import moved

__version__ = "0.1.0"
moved.install()

if TYPE_CHECKING:
    from lipguard.callbacks.lipschitz_monitor import LipschitzMonitor as LipschitzMonitor
    from lipguard.certifying.certify import certify as certify
    from lipguard.certifying.certify import plan as plan
    from lipguard.certifying.check import check as check
    from lipguard.certifying.many import certify_many as certify_many
    from lipguard.certifying.margins import Margins as Margins
    from lipguard.certifying.margins import certify_margins as certify_margins
    from lipguard.certifying.margins import verify_margin as verify_margin
    from lipguard.certifying.report import Report as Report
    from lipguard.certifying.verify import verify as verify
    from lipguard.choosing.selection import select as select
    from lipguard.config import DCPConfig as DCPConfig
    from lipguard.metrics.certified_accuracy import CertifiedAccuracy as CertifiedAccuracy
    from lipguard.metrics.lipschitz_bound import LipschitzBound as LipschitzBound
    from lipguard.proposing.penalty import LipschitzPenalty as LipschitzPenalty
    from lipguard.trusted.certificate.certificate import Certificate as Certificate
    from lipguard.trusted.reading.own import register as register
    from lipguard.trusted.regions.region import Ball as Ball
    from lipguard.trusted.regions.region import Box as Box

_HOMES = {
    "Ball": "lipguard.trusted.regions.region",
    "Box": "lipguard.trusted.regions.region",
    "Certificate": "lipguard.trusted.certificate.certificate",
    "CertifiedAccuracy": "lipguard.metrics.certified_accuracy",
    "DCPConfig": "lipguard.config",
    "LipschitzBound": "lipguard.metrics.lipschitz_bound",
    "LipschitzMonitor": "lipguard.callbacks.lipschitz_monitor",
    "LipschitzPenalty": "lipguard.proposing.penalty",
    "Margins": "lipguard.certifying.margins",
    "Report": "lipguard.certifying.report",
    "certify": "lipguard.certifying.certify",
    "certify_many": "lipguard.certifying.many",
    "certify_margins": "lipguard.certifying.margins",
    "check": "lipguard.certifying.check",
    "plan": "lipguard.certifying.certify",
    "register": "lipguard.trusted.reading.own",
    "select": "lipguard.choosing.selection",
    "verify": "lipguard.certifying.verify",
    "verify_margin": "lipguard.certifying.margins",
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
