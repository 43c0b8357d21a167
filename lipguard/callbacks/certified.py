"""From the logits of a validation to certified accuracy: what the bound says of the samples that were validated."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lipguard.callbacks.bounded import Bounded
from lipguard.callbacks.harmless import attempted
from lipguard.callbacks.messages import Messages
from lipguard.callbacks.observed import Inputs
from lipguard.callbacks.recomputed import Curve, Recomputed, certified_counts, disagreement, recompute
from lipguard.callbacks.record import Record
from lipguard.callbacks.rows import RADIUS, SELECTION, Row, of_validation, precise
from lipguard.callbacks.settings import MonitorSettings
from lipguard.callbacks.validated import Samples, Validated
from lipguard.certifying.margins import Margins, accuracy_key, certify_margins, needed_pairs
from lipguard.certifying.report import Report
from lipguard.certifying.request import device_of
from lipguard.trusted.reading.trace import read

_UNFIT = 1e30  # of selection, where the accuracy is not reached: above every bound, and smaller the nearer it is


class Certified:
    """The accuracy that margins certify on the batches that were just validated.

    Attributes:
        margins: their constants at the last validation, in the process of rank zero.
        curve: certified accuracy by radius, if there is any.
        expected: names that are logged of validations: by an earlier one, or monitored.
    """

    def __init__(
        self, settings: MonitorSettings, record: Record, inputs: Inputs, bounded: Bounded, messages: Messages
    ) -> None:
        self.settings, self._record, self._messages = settings, record, messages
        self._inputs, self._bounded = inputs, bounded
        self._validated = Validated()
        self.margins: Margins | None = None
        self.curve: Curve | None = None
        self.expected: set[str] = set()

    def expect(self, names: Iterable[str]) -> None:
        """These are monitored."""
        self.expected = set(of_validation(names))

    # --- while it is validated ---

    def begin(self, trainer: Any, module: nn.Module) -> None:
        """Look at the logits of the validation."""
        if self._looks(trainer):
            self._validated.begin(self._bounded.within(module), self._inputs.shape)

    def add(self, trainer: Any, module: nn.Module, batch: Any) -> None:
        """Keep them, with the labels."""
        if self._looks(trainer):
            self._validated.add(module, batch)

    def end(self) -> None:
        """Look no further."""
        self._validated.end()

    def _looks(self, trainer: Any) -> bool:
        fitting = trainer.state.fn == "fit"
        looks = not (fitting and (self.settings.background or trainer.sanity_checking))
        return bool(self.settings.epsilons) and looks and not trainer.barebones

    # --- once the bound is known ---

    def completed(self, trainer: Any, module: Any, row: Row) -> tuple[Row, Row, bool]:
        """What a validation adds to the row of its weights.

        Returns:
            (added, unknown, interrupted): keys of the row; those that are logged as nan, because Lightning would show
            monitors the last validation's value in their place; and whether Ctrl-C ended the proofs.
        """
        added, interrupted = self._values(trainer, module, row)
        self.expected |= of_validation(added).keys()
        unknown = dict.fromkeys(sorted(self.expected - added.keys()), math.nan)
        return added, unknown, interrupted

    def _values(self, trainer: Any, module: Any, row: Row) -> tuple[Row, bool]:
        """The accuracy, and what is certified; nothing where nothing was seen.

        Without a bound there is an accuracy, by the logits as they were seen, and no certified one.
        """
        began = time.monotonic()
        bounded = math.isfinite(float(row["bound"]))
        samples = self._validated.take()
        if samples is None and self._validated.reason:
            self._messages.tell(f"no certified accuracy, because {self._validated.reason}.")
        classes = trainer.strategy.broadcast(None if samples is None else samples.logits.shape[1])
        if classes is None:
            return {}, False
        constants, interrupted = None, False
        if bounded and trainer.is_global_zero:
            assert samples is not None
            constants, interrupted = self._constants(trainer, module, samples, row)
        mine = (constants, interrupted, time.monotonic() - began)
        constants, interrupted, seconds = trainer.strategy.broadcast(mine)
        counts = torch.zeros(3 + len(self.settings.epsilons), dtype=torch.float64)
        if samples is not None and samples.logits.shape[1] == classes:
            found = self._counts(trainer, module, samples, constants, row)
            counts = counts if found is None else found
        counts = trainer.strategy.reduce(counts.to(module.device, precise(module.device)), reduce_op="sum").cpu()
        return self._shares(counts, row, bounded, seconds), interrupted

    def _shares(self, counts: Tensor, row: Row, bounded: bool, seconds: float) -> Row:
        """Of what is counted in all processes."""
        total = float(counts[0])
        if not total:
            return {}
        accuracy = float(counts[1]) / total
        plain = self._selection(accuracy, row) | {"accuracy": accuracy}
        if not bounded:
            return plain
        shares = [float(count) / total for count in counts[2:-1]]
        return (
            {accuracy_key(epsilon): share for epsilon, share in zip(self.settings.epsilons, shares, strict=True)}
            | plain
            | {RADIUS.name: float(counts[-1]) / total, "margin_seconds": seconds}
        )

    def _selection(self, accuracy: float, row: Row) -> Row:
        """The bound, where the accuracy is reached: what a checkpoint is to have the smallest of."""
        least = self.settings.min_accuracy
        if least is None:
            return {}
        fits = accuracy >= least
        return {SELECTION.name: min(float(row["bound"]), _UNFIT) if fits else _UNFIT * (1.0 + least - accuracy)}

    def _counts(
        self, trainer: Any, module: nn.Module, samples: Samples, constants: Tensor | None, row: Row
    ) -> Tensor | None:
        """What is certified of the samples of this process; None where their logits are not the bounded network's."""
        epsilons, std = self.settings.epsilons, self.settings.input_std
        if constants is None:
            self.curve = None
            margins = Margins.of_bound(math.inf, samples.logits.shape[1])
            return certified_counts(samples.logits, samples.target, margins, epsilons, std)[0]
        found = attempted(
            lambda reason: reason, self._recomputed, self._bounded.of(trainer, module), samples, constants, row
        )
        if isinstance(found, str):
            self._messages.tell(f"no certified accuracy, because {found}")
            return None
        counts, self.curve = certified_counts(
            found.logits, samples.target, Margins(constants), epsilons, std, found.error
        )
        return counts

    def _recomputed(self, model: nn.Module, samples: Samples, constants: Tensor, row: Row) -> Recomputed | str:
        """The logits of the network that is bounded; in words, why they are not those that were seen."""
        least = min(self.settings.epsilons) / self.settings.input_std
        with torch.inference_mode(False):
            network = read(model, self._inputs.known_shape(), self._bounded.reading)
            if network.digest != row["digest"]:
                return "the weights are no longer those that were bounded."
            found = recompute(samples, network, constants, least, device_of(model))
        differs = disagreement(samples, found)
        if differs:
            return f"validation calls {self._validated.part or 'the module'}, {differs}."
        if not bool(found.computed.all()):
            self._messages.tell(
                "some samples of the validation count as not certified, because computing the logits of all of them in "
                "float64 would take too long. Those that are likeliest to be certified are computed."
            )
        return found

    def _constants(
        self, trainer: Any, module: nn.Module, samples: Samples, row: Mapping[str, Any]
    ) -> tuple[Tensor, bool]:
        """Of all margins, shape (classes, classes), and whether Ctrl-C ended their proofs."""
        report = self._record.report
        plain = Margins.of_bound(float(row["bound"]), samples.logits.shape[1]).constants
        if report is None or row["digest"] is None:
            return plain, False
        seconds = self.settings.margin_seconds
        budget = max(0.5, report.seconds) if seconds is None else seconds
        if budget <= 0:
            return plain, False

        def lost(reason: str) -> None:
            self._messages.warn(f"Margins have no constants of their own, training goes on. {reason}")

        margins = attempted(lost, self._proved, self._bounded.of(trainer, module), samples, report, budget)
        if margins is None:
            return plain, False
        self.margins = margins
        return margins.constants, any(own.status.is_interrupted for own in margins.reports.values())

    def _proved(self, model: nn.Module, samples: Samples, report: Report, budget: float) -> Margins:
        own = self._bounded.reading
        return certify_margins(
            model, self._inputs.known_shape(), report, self.settings.config, needed_pairs(samples.logits), budget,
            self.margins, optimise=self._record.last.solved, output=own.output, input=own.input, fixed=own.fixed,
        )  # fmt: skip
