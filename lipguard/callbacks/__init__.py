"""PyTorch Lightning callbacks: the certified Lipschitz bound while a network trains."""

from lipguard.callbacks.lipschitz_monitor import LipschitzMonitor

__all__ = ["LipschitzMonitor"]
