"""How long a solve takes on this machine: measured once, then read from a small file.

Every probe of the search would cost a solve, so the search asks this model instead: the time of one SCS iteration on an
LMI of N rows is dominated by an eigendecomposition, `coefficient * N ** exponent`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from lipguard import __version__

_LOG = logging.getLogger(__name__)
_FORMAT = 4  # of what is measured
_PROBES = (48, 144)
_ITERATIONS = 400  # a typical solve at the default tolerance
_MOST = 4.0  # by what a prediction is changed, as learned from what was observed
_RATE = 0.3  # of that, in logarithms, with every solve
_NOTICED = 0.5  # seconds from which on a solve is learned from
CACHE_VARIABLE = "LIPGUARD_CACHE"


@dataclass(frozen=True)
class CostModel:
    """Seconds of one SCS iteration on an LMI of N rows: coefficient * N ** exponent; and the speed of the rest.

    Attributes:
        flops: floating-point operations per second of a multifrontal factorisation.
        learned: for a stage ("iteration", or a kind of proof) by what its predictions are multiplied.
    """

    coefficient: float
    exponent: float
    flops: float = 6e10
    learned: Mapping[str, float] = field(default_factory=dict)

    def factor(self, stage: str) -> float:
        """By what the predictions of a stage are multiplied."""
        return self.learned.get(stage, 1.0)

    def seconds(self, variables: int, max_iterations: int) -> float:
        """Predicted time of one solve."""
        return float(self.coefficient * variables**self.exponent * min(_ITERATIONS, max_iterations))


def cost_model(path: Path | None = None) -> CostModel:
    """The model of this machine, from `path` or the cache folder; measured where there is none yet."""
    path = path or _default_path()
    try:
        stored = json.loads(path.read_text())
        learned = {str(stage): float(factor) for stage, factor in stored["learned"].items()}
        model = CostModel(float(stored["coefficient"]), float(stored["exponent"]), float(stored["flops"]), learned)
        sane = all(1 / _MOST <= factor <= _MOST for factor in learned.values())
        if 0 < model.coefficient < math.inf and 0 < model.exponent < 10 and 0 < model.flops < math.inf and sane:
            return model
        raise ValueError(f"it holds {model}")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _LOG.warning("The cost model in %s cannot be read (%s); measuring again.", path, error)
    model = dataclasses.replace(_calibrate(_eigendecomposition_seconds), flops=_factorisation_flops())
    try:
        _write(path, model)
    except OSError as error:
        _LOG.warning("The cost model cannot be stored in %s: %s.", path, error)
    return model


def learn(observed: Mapping[str, tuple[float, float]], path: Path | None = None) -> None:
    """Take up what stages took beside what was predicted: (seconds, predicted seconds), from a solve without a start.

    A prediction that is right within a quarter changes nothing, so that plans do not change either.
    """
    model = cost_model(path)
    learned = dict(model.learned)
    for stage, (seconds, predicted) in observed.items():
        if seconds < _NOTICED or not predicted > 0:
            continue
        error = math.log(seconds / predicted)
        if abs(error) > math.log(1.25):
            factor = model.factor(stage) * math.exp(_RATE * error)
            learned[stage] = min(max(factor, 1 / _MOST), _MOST)
    if learned != model.learned:
        try:
            _write(path or _default_path(), dataclasses.replace(model, learned=learned))
        except OSError as error:
            _LOG.info("What was learned of this machine's speed cannot be stored: %s.", error)


def _default_path() -> Path:
    return _cache_folder() / f"cost-{__version__}-{_FORMAT}-{platform.node() or 'machine'}.json"


def _calibrate(measure: Callable[[int], float]) -> CostModel:
    small, large = (measure(n) for n in _PROBES)
    exponent = min(max(math.log(large / small) / math.log(_PROBES[1] / _PROBES[0]), 1.5), 3.5)
    return CostModel(large / _PROBES[1] ** exponent, exponent)


def _eigendecomposition_seconds(n: int) -> float:
    """Best of a few: the projection on the cone, with half as much again for the rest of an iteration."""
    A = np.random.default_rng(0).standard_normal((n, n))
    A += A.T
    times = []
    for _ in range(7):
        start = time.perf_counter()
        np.linalg.eigh(A)
        times.append(time.perf_counter() - start)
    return 1.5 * min(times)


def _factorisation_flops(n: int = 768) -> float:
    """Of a front that eliminates n variables and changes as many."""
    front = torch.full((2 * n, n), 0.5, dtype=torch.float64)
    front.diagonal().add_(n)
    times = []
    for _ in range(15):
        start = time.perf_counter()
        pivots, _ = torch.linalg.cholesky_ex(front[:n])
        below = torch.linalg.solve_triangular(pivots, front[n:].T, upper=False)
        torch.mm(below.T, below)
        times.append(time.perf_counter() - start)
    return float((1 / 3 + 1 + 1) * n**3 / min(times))


def _cache_folder() -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lipguard"


def _write(path: Path, model: CostModel) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        json.dump(dataclasses.asdict(model), file)
    try:
        os.replace(file.name, path)
    except OSError:
        os.unlink(file.name)
        raise
