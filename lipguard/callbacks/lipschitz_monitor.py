"""The monitor for `pytorch_lightning`."""

from __future__ import annotations

from pytorch_lightning import Callback
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]

from lipguard.callbacks.monitoring import LipschitzMonitorMixin


class LipschitzMonitor(LipschitzMonitorMixin, Callback):
    """Log a certified Lipschitz bound of the network, and the accuracy that it certifies, beside your own metrics.

    Logged are ``<prefix>/bound``, ``<prefix>/product_bound``, ``<prefix>/lower_bound``, ``<prefix>/tightness``
    (lower / upper) and ``<prefix>/seconds``, always of the current weights: on the schedule a full solve, between
    that (and at validations inside an epoch) a cheap re-evaluation with the last multipliers, certified as well. So
    ``ModelCheckpoint(monitor="lipschitz/bound")`` and ``EarlyStopping`` see the bound of the weights that they judge.

    Of a classifier that is validated, also ``<prefix>/certified_accuracy_eps_<e>``: the share of the validation's
    samples that are classified rightly, and provably still are after any step of l2 length ``e``; and
    ``<prefix>/average_certified_radius``. The logits of the validation's inputs are computed anew in float64, with a
    proved error, by the network that is bounded; certified constants of the margins, those that the samples need first,
    make radii of them. There is none, and a message says why, where the validation does not return that network's
    logits, and none without a bound; what monitors such a key sees nan then.

    ``trainer.validate`` and ``trainer.test`` log the same keys, of the weights as they are.

    A failed estimate never ends the training: it is a warning with the reason, and the certified norm product is
    logged, or infinity if the network has no bound that lipguard can prove. (``EarlyStopping`` stops on infinity
    unless it has ``check_finite=False``.) The random state and the train and eval flags are left as they were.

    Args:
        every_n_epochs: epochs between full solves; a solve is due when ``(epoch + 1) % every_n_epochs == 0``.
        config: how the network is partitioned, solved and proved; the default settings if None.
        input_shape: shape of one input without the batch axis, e.g. ``(1, 28, 28)``. If None it is read from the
            module's ``example_input_array``, or else from the first training batch.
        log_prefix: what the logged keys start with.
        epsilons: radii of certified accuracy, in units of the data before they are normalised (see `input_std`);
            ``()`` goes without.
        input_std: what the data were divided by, a number or one per channel; 1 where they were not, or where the
            normalisation is a layer of the network.
        margin_seconds: for constants of margins at each validation, those that are not reached keep sqrt(2) times the
            network's bound. None allows as much as the bound took, at least half a second, so that certified accuracy
            depends a little on the machine; ``math.inf`` computes all of them, 0 none.
        min_accuracy: also log ``<prefix>/selection``: the bound of weights that are as accurate on the validation, and
            more than any bound for others, so that ``ModelCheckpoint(monitor="lipschitz/selection", mode="min")`` keeps
            the smoothest network that is accurate enough. (The highest certified accuracy at a radius needs no such
            rule: ``monitor="lipschitz/certified_accuracy_eps_0.25", mode="max"``.)
        warmup_epochs: epochs at first without a full solve.
        every_n_train_steps: full solves after so many steps, instead of after epochs.
        estimate_every_n_steps: log ``<prefix>/estimate``, the value of LipSDP's relaxation, so often: one forward and
            backward pass of a few vectors. It is not a bound.
        max_overhead: the share of the time that bounds may take, such as 0.1: a full solve that would go beyond it is
            left out, and said so; what the last multipliers prove is logged in its place.
        background: compute certificates while the training goes on, in one other process with half of the cores. The
            weights are copied at the epoch's end; a bound is logged, straight to the loggers, with the epoch and step
            that it belongs to, when it is known. Nothing can monitor it then, and off-schedule epochs have none.
        max_queue: certificates that may wait in the background; an epoch that finds no place is left out, and said so.
        max_wait: seconds to wait for them when the training ends, with a progress bar. An interrupt does not wait.
        executor: what computes them instead, such as `dask.distributed.Client(...).get_executor()`.
        module: the part of the LightningModule that is bounded, by name, such as ``"critic"`` or ``"net.head"``. If
            None it is what its own ``forward`` computes, or else the largest part that can be read, which is told.
        output, input, fixed: which function of it: one output of several, one input with the others fixed; as for
            `lipguard.certify`.

    Attributes:
        settings: the arguments, frozen, in one form; most are attributes as well, for reading.
        history: one row of plain values per measurement, with the keys ``epoch``, ``step``, ``bound``,
            ``product_bound``, ``lower_bound``, ``tightness``, ``seconds``, ``status`` and ``digest`` (of the network
            that the bound is about, None if there is no certificate). It is saved in checkpoints and continued.
        last_report: the report of the last successful estimate (in the process of rank zero).
        last_margins: the constants of margins at the last validation (in the process of rank zero).

    Raises:
        MisconfigurationException: an argument is invalid, or the trainer has a part with which the logged bound would
            not be that of the saved weights (sharded weights, a time-triggered checkpoint).

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
