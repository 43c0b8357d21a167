"""When a measurement is due, and when a solve is affordable, by a clock of the test's own."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from lipguard.callbacks.messages import Messages
from lipguard.callbacks.schedule import Moment, Schedule
from lipguard.callbacks.settings import MonitorSettings


def schedule(**settings: Any) -> Schedule:
    return Schedule(MonitorSettings(**settings), Messages("M"))


def end_of(epoch: int, **more: Any) -> Moment:
    return Moment(epoch, 10 * epoch, 10 * epoch, end_of_epoch=True, **more)


@pytest.mark.parametrize(
    ("settings", "solved"),
    [
        ({}, [0, 1, 2, 3, 4, 5]), ({"every_n_epochs": 2}, [1, 3, 5]), ({"warmup_epochs": 4}, [4, 5]),
        ({"every_n_epochs": 2, "warmup_epochs": 2}, [3, 5]), ({"every_n_train_steps": 7}, []),
    ],
)  # fmt: skip
def test_solves_at_the_end_of_epochs(settings: dict[str, Any], solved: list[int]) -> None:
    own = schedule(**settings)
    assert [epoch for epoch in range(6) if own.takes_a_solve(end_of(epoch))] == solved
    assert not any(own.takes_a_solve(Moment(epoch, 1, 1)) for epoch in range(6))


def test_solves_after_steps() -> None:
    own = schedule(every_n_train_steps=7, warmup_epochs=1)
    assert [step for step in range(1, 30) if own.solves(step)] == [7, 14, 21, 28]
    assert not own.takes_a_solve(Moment(0, 7, 7, due=True))
    assert own.takes_a_solve(Moment(1, 7, 7, due=True))


def test_checkpoints_and_estimates_after_steps() -> None:
    own = schedule(estimate_every_n_steps=4)
    assert not any(own.saves(step) for step in range(1, 9))
    own.serve((2, 3))
    assert [step for step in range(1, 9) if own.saves(step)] == [2, 3, 4, 6, 8]
    assert [step for step in range(1, 9) if own.estimates(step)] == [4, 8]


def test_a_solve_keeps_within_its_share() -> None:
    clock = SimpleNamespace(now=0.0)
    own = Schedule(MonitorSettings(max_overhead=0.25), Messages("M"), lambda: clock.now)
    own.begin()
    assert own.takes_a_solve(end_of(0))  # what it will take is not known yet
    with own.measuring(), own.solving():
        clock.now = 10.0
    with pytest.warns(UserWarning, match="max_overhead=0.25"):
        assert not own.takes_a_solve(end_of(1))  # 20 s of 20
    clock.now = 69.0
    assert not own.takes_a_solve(end_of(2))  # 20 s of 79
    clock.now = 70.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert own.takes_a_solve(end_of(3))  # 20 s of 80
    own.begin()
    clock.now = 99.0
    assert not own.takes_a_solve(end_of(0))  # of another fit, in 29 s
    clock.now = 100.0
    assert own.takes_a_solve(end_of(0))
