"""torchmetrics metrics: the certified Lipschitz bound."""

from lipguard.metrics.lipschitz_bound import LipschitzBound

__all__ = ["LipschitzBound"]
