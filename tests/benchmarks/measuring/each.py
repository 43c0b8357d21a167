"""The methods of the study `engine` on one network, each at most once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from lipguard import DCPConfig
from lipguard.trusted.reading.trace import trace

from ..networks.sample import Sample
from .methods import certify, lipsdp, product
from .process import Outcome, measure


@dataclass(frozen=True)
class Budget:
    """Seconds per method, threads, and the most LMI variables for which cvxpy is asked."""

    limit: float
    threads: int
    variables: int


class Runs:
    """The methods on one network, each at most once."""

    def __init__(self, sample: Sample, folder: Path, budget: Budget) -> None:
        self.sample, self.folder, self.budget = sample, folder, budget
        self.weights = self._save(sample.model, "weights.pt")
        self.state = folder / "state.pt"
        network = trace(sample.model, sample.input_shape)
        self.variables = network.nodes[0].size + network.neurons

    def outcome(self, method: str) -> Outcome | None:
        """What a method came to; None where it does not apply."""
        if method in ("scs", "clarabel"):
            small = self.variables <= self.budget.variables
            return self._measure(lipsdp, self.weights, method.upper()) if small else None
        if method == "dcp":
            return self._certify(self.weights, DCPConfig.paper())
        if method == "deterministic":
            randomised = self.cold.values.get("proof") == "randomised"
            return self._certify(self.weights, DCPConfig(failure_probability=0)) if randomised else None
        if method == "warm":
            return self.warm if self.state.exists() else Outcome("failed (no cold start)")
        return self.product if method == "product" else self.cold

    @cached_property
    def product(self) -> Outcome:
        return self._measure(product, self.weights)

    @cached_property
    def cold(self) -> Outcome:
        return self._certify(self.weights, DCPConfig(), keep=self.state)

    @cached_property
    def warm(self) -> Outcome:
        return self._certify(self.later, DCPConfig(), warm=self.state)

    @cached_property
    def cold_later(self) -> Outcome:
        """A cold certificate of the weights that the warm one is for."""
        return self._certify(self.later, DCPConfig())

    @cached_property
    def later(self) -> Path:
        return self._save(self.sample.later(), "later.pt")

    def excess(self, method: str, bound: float) -> str:
        """How far the bound is above the best one that is known."""
        if method != "warm":
            return _percent(bound / self.sample.optimum - 1) if self.sample.optimum else "-"
        cold = self.cold_later.values.get("bound", math.nan)
        return "-" if math.isnan(cold) else f"{_percent(bound / cold - 1)} over cold"

    def _save(self, model: nn.Module, name: str) -> Path:
        torch.save(model, self.folder / name)
        return self.folder / name

    def _certify(self, weights: Path, config: DCPConfig, warm: Path | None = None, keep: Path | None = None) -> Outcome:
        return self._measure(certify, weights, config.to_dict(), warm, keep)

    def _measure(self, work: object, weights: Path, *arguments: object) -> Outcome:
        assert callable(work)
        budget = self.budget
        return measure(work, weights, self.sample.input_shape, *arguments, limit=budget.limit, threads=budget.threads)


def _percent(share: float) -> str:
    return f"{100 * share:+.4f} %" if abs(share) < 0.01 else f"{100 * share:+.1f} %"
