"""Settings of a monitor, frozen and validated at construction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from lipguard.certifying.request import checked_config
from lipguard.config import DCPConfig
from lipguard.errors import ConfigError
from lipguard.metrics.certified_accuracy import checked_epsilons, smallest_std
from lipguard.proposing.processes import has_processes
from lipguard.trusted.reading.choice import Reading

# name, whether it is a whole number, the least that it may be, whether it may be None
_NUMBERS = (
    ("warmup_epochs", True, 0, False),
    ("every_n_train_steps", True, 1, True),
    ("estimate_every_n_steps", True, 1, True),
    ("max_overhead", False, 0, True),
    ("margin_seconds", False, 0, True),
    ("min_accuracy", False, 0, True),
)


@dataclass(frozen=True)
class MonitorSettings:
    """When a monitor measures, what, and where; the arguments of `LipschitzMonitor`, which explains them.

    Attributes:
        config: the default settings where None was given.
        input_shape: a tuple, or None where it is to be found.
        log_prefix: without a slash at its end.
        epsilons: a tuple, possibly empty.
        input_std: the smallest of what the data were divided by.

    Raises:
        ConfigError: a setting is of the wrong type, or out of its range.
    """

    every_n_epochs: int = 1
    config: DCPConfig = field(default_factory=DCPConfig)
    input_shape: tuple[int, ...] | None = None
    log_prefix: str = "lipschitz"
    epsilons: tuple[float, ...] = (0.1, 0.25, 0.5)
    input_std: float = 1.0
    margin_seconds: float | None = None
    min_accuracy: float | None = None
    warmup_epochs: int = 0
    every_n_train_steps: int | None = None
    estimate_every_n_steps: int | None = None
    max_overhead: float | None = None
    background: bool = False
    max_queue: int = 2
    max_wait: float = 600.0
    executor: Executor | None = None
    module: str | None = None
    output: str | int | None = None
    input: str | int | None = None
    fixed: Mapping[str | int, Any] | None = None

    @property
    def reading(self) -> Reading:
        """Which function of the network is bounded."""
        return Reading(self.output, self.input, {} if self.fixed is None else self.fixed)

    def __post_init__(self) -> None:
        given: Any = self  # of any type, until it is checked
        if not _is_whole(given.every_n_epochs, 1):
            raise ConfigError(f"Expected every_n_epochs to be at least 1, but got {given.every_n_epochs!r}.")
        checked_config(given.config)
        if given.input_shape is not None and not _is_shape(given.input_shape):
            raise ConfigError(
                "Expected input_shape to be the shape of one input without the batch axis, such as (1, 28, 28), "
                f"but got {given.input_shape!r}."
            )
        if not isinstance(given.log_prefix, str) or not given.log_prefix.strip("/"):
            raise ConfigError(f"Expected log_prefix to be a name, but got {given.log_prefix!r}.")
        if given.background and given.executor is None and not has_processes():
            raise ConfigError(
                "background=True needs an executor, or the package loky. Run: pip install 'lipguard[parallel]'"
            )
        if not _is_whole(given.max_queue, 1):
            raise ConfigError(f"Expected max_queue to be at least 1, but got {given.max_queue!r}.")
        if not _is_number(given.max_wait) or not given.max_wait >= 0:
            raise ConfigError(f"Expected max_wait to be a number of seconds, but got {given.max_wait!r}.")
        for name, whole, least, optional in _NUMBERS:
            _check_number(name, getattr(given, name), whole, least, optional)
        if given.background and given.max_overhead is not None:
            raise ConfigError(
                "max_overhead is the share of the time that the training waits for bounds, and with background=True it "
                "does not wait. Use every_n_epochs or max_queue."
            )
        if given.module is not None and (not isinstance(given.module, str) or not given.module):
            raise ConfigError(f"Expected module to be the name of a part of the network, but got {given.module!r}.")
        _ = self.reading  # it checks what it is given
        self._normalise(given)

    def _normalise(self, given: Any) -> None:
        """Everything in one form, whichever it was given in."""
        for name in ("epsilons", "input_std"):
            if not isinstance(getattr(given, name), (int, float, Iterable)):
                raise ConfigError(f"Expected {name} to be a number, or several, but got {getattr(given, name)!r}.")
        none = not isinstance(given.epsilons, (int, float)) and not len(given.epsilons)
        put = object.__setattr__  # the class is frozen
        put(self, "epsilons", () if none else checked_epsilons(given.epsilons))
        put(self, "input_std", smallest_std(given.input_std))
        put(self, "config", checked_config(given.config))
        put(self, "input_shape", None if given.input_shape is None else tuple(given.input_shape))
        put(self, "log_prefix", given.log_prefix.rstrip("/"))
        put(self, "max_wait", float(given.max_wait))


def setting(name: str) -> Any:
    """A property that reads one of `self.settings`."""
    return property(attrgetter(f"settings.{name}"))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_shape(shape: object) -> bool:
    return isinstance(shape, Sequence) and len(shape) > 0 and all(_is_whole(n, 1) for n in shape)


def _check_number(name: str, value: Any, whole: bool, least: int, optional: bool) -> None:
    if value is None and optional:
        return
    if not _is_number(value) or (whole and not isinstance(value, int)) or not value >= least:
        kind = "an integer" if whole else "a number"
        raise ConfigError(f"Expected {name} to be {kind} of at least {least}, but got {value!r}.")
