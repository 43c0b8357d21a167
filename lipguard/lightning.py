"""The monitor for `lightning.pytorch`, whose trainers take none of `pytorch_lightning`'s callbacks.

Needs the package `lightning`. Everything else is the same: see `lipguard.callbacks.lipschitz_monitor.LipschitzMonitor`.
"""

from __future__ import annotations

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback

from lipguard.callbacks.monitoring import LipschitzMonitorMixin

__all__ = ["LipschitzMonitor"]


class LipschitzMonitor(LipschitzMonitorMixin, Callback):
    """Log a certified Lipschitz bound of the network, and the accuracy that it certifies, every epoch.

    Arguments, attributes and what is logged are those of `lipguard.LipschitzMonitor`.

    Raises:
        MisconfigurationException: an argument is invalid, or the trainer has a part that does not fit.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lipguard.lightning import LipschitzMonitor
        >>> trainer = Trainer(callbacks=[LipschitzMonitor()])  # doctest: +SKIP
    """

    _configuration_error = MisconfigurationException

    @property
    def state_key(self) -> str:
        """Two monitors in one trainer differ in their prefix, as their keys do."""
        return self._generate_state_key(log_prefix=self.log_prefix)
