"""torchmetrics metrics: the certified Lipschitz bound, and the accuracy that it certifies."""

from lipguard.metrics.certified_accuracy import CertifiedAccuracy
from lipguard.metrics.lipschitz_bound import LipschitzBound

__all__ = ["CertifiedAccuracy", "LipschitzBound"]
