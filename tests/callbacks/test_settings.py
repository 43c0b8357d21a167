"""Settings are validated, put in one form, and readable as the monitor's own attributes."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

from lipguard import DCPConfig, LipschitzMonitor
from lipguard.callbacks.settings import MonitorSettings
from lipguard.errors import ConfigError

FIELDS = dataclasses.fields(MonitorSettings)


def test_the_monitor_takes_the_settings_in_their_order() -> None:
    parameters = list(inspect.signature(LipschitzMonitor).parameters.values())
    assert [own.name for own in parameters] == [field.name for field in FIELDS]
    for own, field in zip(parameters, FIELDS, strict=True):
        assert own.default == (None if field.name == "config" else field.default), own.name


def test_the_monitor_has_them_for_reading() -> None:
    given: list[Any] = [
        3, DCPConfig(seed=3), [1, 4, 4], "lip/", 0.3, [0.2, 0.4], 1, 0.5, 1, 2, 3, None, True, 5, 7, "e", "net", 1, "x",
        {"t": 0.5},
    ]  # fmt: skip
    monitor = LipschitzMonitor(*given)
    changed = {"input_shape": (1, 4, 4), "log_prefix": "lip", "epsilons": (0.3,), "input_std": 0.2}
    expected = dict(zip((field.name for field in FIELDS), given, strict=True)) | changed
    assert dataclasses.asdict(monitor.settings) == expected | {"config": DCPConfig(seed=3).to_dict()}
    for name in expected.keys() - {"background", "max_queue", "executor"}:
        assert getattr(monitor, name) == expected[name]
        with pytest.raises(AttributeError):
            setattr(monitor, name, None)


def test_none_is_the_default_configuration() -> None:
    assert LipschitzMonitor(config=None).config == MonitorSettings().config == DCPConfig()


def test_they_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MonitorSettings().every_n_epochs = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilons": None}, "epsilons to be a number, or several, but got None"),
        ({"input_std": None}, "input_std to be a number, or several, but got None"),
        ({"epsilons": (-1,)}, "epsilon to be a radius"),
        ({"max_wait": float("nan")}, "max_wait to be a number of seconds"),
        ({"min_accuracy": -1}, "min_accuracy to be a number of at least 0, but got -1"),
        ({"background": True, "max_overhead": 0.1}, "max_overhead is .*every_n_epochs or max_queue"),
        ({"module": 3}, "module to be the name of a part of the network, but got 3"),
        ({"output": 1.5}, "output to be a name, a place or None, but got 1.5"),
        ({"fixed": [1]}, "fixed to be a dict of arguments"),
    ],
)
def test_what_is_wrong_is_an_error_of_lipguard(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MonitorSettings(**wrong)
