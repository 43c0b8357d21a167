"""What the stages of a certification took teaches the cost model, which predicts them for plans."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from lipguard.certifying.report import Report
from lipguard.certifying.state import BlockState
from lipguard.planning.machine import cost_model, learn
from lipguard.planning.prices.iteration import iteration_seconds

_LOG = logging.getLogger(__name__)


def learned(report: Report, states: Sequence[BlockState]) -> Report:
    """The report, with a note where nothing could be learned."""
    try:
        _learn(states)
    except Exception as error:  # a cache that cannot be written, say: later plans are a little worse
        _LOG.warning("The cost model did not learn.", exc_info=True)
        note = f"the cost model did not learn from this run: {type(error).__name__}: {error}"
        return dataclasses.replace(report, notes=(*report.notes, note))
    return report


def _learn(states: Sequence[BlockState]) -> None:
    """Compare what the stages of a whole network took with what was predicted."""
    if len(states) != 1:  # what each of several takes is not known; of a network that is its input nothing is
        return
    (state,) = states
    subject, proposals = state.subject, state.proposals
    if not subject.by_power or len(subject.parts) != 1 or proposals.rounds != 1:
        return
    iteration = iteration_seconds(subject.parts[0], cost_model(), subject.block.multipliers)
    learn({
        "iteration": (proposals.seconds, iteration),
        subject.block.proof: (states[0].proving, subject.block.seconds - iteration),
    })  # fmt: skip
