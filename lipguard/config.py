"""Settings of a certification, frozen and validated at construction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

from lipguard.errors import ConfigError
from lipguard.trusted.proofs.kinds import CHECKS
from lipguard.trusted.proofs.tiles import MERGES

PARTITIONS = ("auto", "none", "cuts", "tiles")
SOLVERS = ("power", "scs", "clarabel")
PROOFS = ("auto", *CHECKS)
MULTIPLIERS = ("auto", "neuron", "channel")


@dataclass(frozen=True)
class DCPConfig:
    """How a network is partitioned, solved, merged and proved.

    Args:
        partition: ``"auto"`` lets the dynamic search choose cuts and tiles; ``"none"`` puts the whole network into
            one LMI; ``"cuts"`` allows layer-wise cuts only; ``"tiles"`` tiles every convolutional subnetwork.
        solver: who proposes the multipliers: ``"power"``, a power iteration on the network itself that needs no
            matrix (the whole network is then one block wherever a proof fits), ``"scs"`` or ``"clarabel"``. A solver
            can only make a bound loose.
        merge: how tiles are put together: ``"form"`` (the sum of the sensitivity forms), ``"coverage"`` (the largest
            sum over the tiles that read one input entry) or ``"sum"`` (the sum over all tiles, as published).
        proof: how the bound is proved: ``"dense"`` or ``"sparse"`` (Cholesky, deterministic),
            ``"randomised"`` (which errs with `failure_probability`), or ``"auto"``: Cholesky while it is predicted to
            be cheap, or to fit into `max_seconds`, the randomised proof above that.
        failure_probability: of a randomised proof, at most. 0 asks for deterministic proofs only; a network for which
            none fits into memory is then cut.
        multipliers: one per ``"neuron"``, or one per ``"channel"`` of an image: looser, in few iterations (power
            iteration only). ``"auto"`` takes those per neuron, and tries both, or those per channel only, where a
            network is deep or time is short.
        max_block_size: ``N_max``, the largest dense matrix, in rows, that one solve or proof may factor, the fronts of
            sparse proofs included. None takes 300 (100 for Clarabel; 2,048 for cuts and tiles of the power iteration),
            or as many more (up to 1,000; 150; 4,096) as the smallest block of the network needs; where that is not
            enough, norms are multiplied. Sparse proofs are then limited by memory only.
        partition_factors: tiles per axis (rows, columns) of every tiled subnetwork, or None to search for them.
        max_memory: bytes that a proof may take, or None for half of what is free.
        max_seconds: time budget; what is not solved at the deadline falls back to a looser, verified bound.
        tolerance: relative accuracy asked of the solver.
        max_iterations: iterations after which the solver must propose what it has.
        workers: processes for independent solves; 1 solves in this process, None chooses by predicted time.
        seed: seed of everything random (the points that the lower bound starts from).

    Raises:
        ConfigError: a value is of the wrong type or not among the choices, which the message lists.
    """

    partition: str = "auto"
    solver: str = "power"
    merge: str = "form"
    proof: str = "auto"
    failure_probability: float = 1e-12
    multipliers: str = "auto"
    max_block_size: int | None = None
    partition_factors: tuple[int, int] | None = None
    max_memory: float | None = None
    max_seconds: float | None = None
    tolerance: float = 1e-3
    max_iterations: int = 2000
    workers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_choice("partition", self.partition, PARTITIONS)
        _check_choice("solver", self.solver, SOLVERS)
        _check_choice("merge", self.merge, MERGES)
        _check_choice("proof", self.proof, PROOFS)
        _check_choice("multipliers", self.multipliers, MULTIPLIERS)
        p = self.failure_probability
        if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p < 1:
            raise ConfigError(f"Expected failure_probability in [0, 1), but got {p!r}.")
        if self.proof != "auto" and CHECKS[self.proof].errs and p == 0:
            raise ConfigError(f"proof={self.proof!r} needs a failure_probability above 0.")
        if self.multipliers == "channel" and self.solver != "power":
            raise ConfigError(f"multipliers='channel' needs solver='power', not {self.solver!r}.")
        if self.max_block_size is not None:
            _check_integer("max_block_size", self.max_block_size, minimum=2)
        _check_integer("max_iterations", self.max_iterations, minimum=1)
        _check_integer("seed", self.seed, minimum=0)
        if self.workers is not None:
            _check_integer("workers", self.workers, minimum=1)
        if self.max_memory is not None:
            _check_positive("max_memory", self.max_memory)
        if self.max_seconds is not None:
            _check_positive("max_seconds", self.max_seconds)
        _check_positive("tolerance", self.tolerance)
        if self.tolerance >= 1:
            raise ConfigError(f"Expected tolerance below 1, but got {self.tolerance!r}.")
        if self.partition_factors is not None:
            factors = tuple(self.partition_factors)
            if len(factors) != 2:
                raise ConfigError(f"Expected partition_factors=(rows, columns), but got {self.partition_factors!r}.")
            for factor in factors:
                _check_integer("partition_factors", factor, minimum=1)
            object.__setattr__(self, "partition_factors", factors)

    @classmethod
    def paper(cls, **overrides: object) -> DCPConfig:
        """DCP as published (arXiv 2403.18613): tiles, solved by SCS, merged by the sum of squares."""
        return cls.from_dict({"solver": "scs", "merge": "sum", "partition": "tiles"} | overrides)

    @classmethod
    def from_dict(cls, settings: dict[str, object]) -> DCPConfig:
        """Build from plain settings (a Hydra node, a checkpoint).

        Raises:
            ConfigError: an option is unknown; the message lists the options that exist.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ConfigError(f"Unknown option {', '.join(unknown)}. Expected one of: {', '.join(known)}.")
        return cls(**settings)  # type: ignore[arg-type]  # validated field by field in __post_init__

    def to_dict(self) -> dict[str, object]:
        """The settings as plain values, the inverse of `from_dict`."""
        return dataclasses.asdict(self)


def _check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    choices = tuple(choices)
    if value not in choices:
        raise ConfigError(f"Expected {name} to be one of {', '.join(map(repr, choices))}, but got {value!r}.")


def _check_integer(name: str, value: object, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigError(f"Expected {name} to be an integer of at least {minimum}, but got {value!r}.")


def _check_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(f"Expected {name} to be a positive finite number, but got {value!r}.")
