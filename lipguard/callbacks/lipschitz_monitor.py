"""The monitor for `pytorch_lightning`."""

from __future__ import annotations

from pytorch_lightning import Callback
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]

from lipguard.callbacks.monitoring import LipschitzMonitorMixin


class LipschitzMonitor(LipschitzMonitorMixin, Callback):
    """Log a certified Lipschitz bound of the network, beside your own metrics, every epoch.

    Logged are ``<prefix>/bound``, ``<prefix>/product_bound``, ``<prefix>/lower_bound``, ``<prefix>/tightness``
    (lower / upper) and ``<prefix>/seconds``, always of the current weights: on the schedule a full solve, between
    that (and at validations inside an epoch) a cheap re-evaluation with the last multipliers, certified as well. So
    ``ModelCheckpoint(monitor="lipschitz/bound")`` and ``EarlyStopping`` see the bound of the weights that they judge.

    A failed estimate never ends the training: it is a warning with the reason, and the certified norm product is
    logged, or infinity if the network has no bound that lipguard can prove. (``EarlyStopping`` stops on infinity
    unless it has ``check_finite=False``.) The random state and the train and eval flags are left as they were.

    Args:
        every_n_epochs: epochs between full solves; a solve is due when ``(epoch + 1) % every_n_epochs == 0``.
        config: how the network is partitioned, solved and proved; the default settings if None.
        input_shape: shape of one input without the batch axis, e.g. ``(1, 28, 28)``. If None it is read from the
            module's ``example_input_array``, or else from the first training batch.
        log_prefix: what the logged keys start with.
        background: compute certificates while the training goes on, in one other process with half of the cores. The
            weights are copied at the epoch's end; a bound is logged, straight to the loggers, with the epoch and step
            that it belongs to, when it is known. Nothing can monitor it then, and off-schedule epochs have none.
        max_queue: certificates that may wait in the background; an epoch that finds no place is left out, and said so.
        max_wait: seconds to wait for them when the training ends, with a progress bar. An interrupt does not wait.
        executor: what computes them instead, such as `dask.distributed.Client(...).get_executor()`.

    Attributes:
        history: one row of plain values per measurement, with the keys ``epoch``, ``step``, ``bound``,
            ``product_bound``, ``lower_bound``, ``tightness``, ``seconds``, ``status`` and ``digest`` (of the network
            that the bound is about, None if there is no certificate). It is saved in checkpoints and continued.
        last_report: the report of the last successful estimate (in the process of rank zero).

    Raises:
        MisconfigurationException: an argument is invalid, or the trainer has a part with which the logged bound would
            not be that of the saved weights (sharded weights, a time-triggered checkpoint, late weight averaging).

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from pytorch_lightning.callbacks import ModelCheckpoint
        >>> callbacks = [LipschitzMonitor(), ModelCheckpoint(monitor="lipschitz/bound", mode="min")]
        >>> trainer = Trainer(callbacks=callbacks)  # doctest: +SKIP
    """

    _configuration_error = MisconfigurationException

    @property
    def state_key(self) -> str:
        """Two monitors in one trainer differ in their prefix, as their keys do."""
        return self._generate_state_key(log_prefix=self.log_prefix)
