"""The cost model is measured once, stored whole or not at all, and never stands in the way."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
from pathlib import Path

import pytest
from torch import nn

from lipguard.config import DCPConfig
from lipguard.planning import machine as cost
from lipguard.planning.machine import CACHE_VARIABLE, CostModel, cost_model, learn
from lipguard.planning.prices.iteration import iteration_seconds
from lipguard.planning.prices.kinds import choose_proof
from lipguard.trusted.reading.trace import trace


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Every size that is measured. Every measurement takes as long as the size alone says."""
    found: list[int] = []

    def measure(n: int) -> float:
        found.append(n)
        return 3e-9 * n**2.5

    def speed(n: int = 768) -> float:
        found.append(n)
        return 4e10

    monkeypatch.setattr(cost, "_eigendecomposition_seconds", measure)
    monkeypatch.setattr(cost, "_factorisation_flops", speed)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return found


def stored(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache").iterdir()  # nothing else is left there
    return path


def test_the_model_is_fitted_to_what_is_measured(measurements: list[int]) -> None:
    model = cost_model()
    assert len(measurements) == 3
    assert model.exponent == pytest.approx(2.5)
    assert model.coefficient == pytest.approx(3e-9)
    assert model.flops == 4e10


def test_it_is_stored_in_the_folder_of_the_environment_and_read_back(measurements: list[int], tmp_path: Path) -> None:
    first = cost_model()
    fields = {"coefficient": first.coefficient, "exponent": first.exponent, "flops": first.flops, "learned": {}}
    assert json.loads(stored(tmp_path).read_text()) == fields
    measurements.clear()
    assert cost_model() == first
    assert not measurements


def test_a_path_of_ones_own_is_used_instead(measurements: list[int], tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "cost.json"
    first = cost_model(path)
    measurements.clear()
    assert cost_model(path) == first
    assert not measurements
    assert not (tmp_path / "cache").exists()


def test_the_user_cache_is_the_default(
    measurements: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    cost_model()
    assert len(list((tmp_path / "xdg" / "lipguard").iterdir())) == 1


GOOD = {"coefficient": 1.0, "exponent": 2.0, "flops": 1e10, "learned": {"sparse": 2.0}}


def spoiled(**changes: object) -> bytes:
    return json.dumps(GOOD | changes).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"{}", b"\xff\xfe", b"null", b'{"coefficient": 1, "exponent": 2}',
        spoiled(coefficient="x"), spoiled(coefficient=-1), spoiled(coefficient=math.inf),
        spoiled(exponent=99), spoiled(exponent=math.nan),
        spoiled(flops="fast"), spoiled(flops=0), spoiled(flops=-1e10), spoiled(flops=math.nan), spoiled(flops=math.inf),
        spoiled(learned=[1]), spoiled(learned={"sparse": 99.0}), spoiled(learned={"sparse": math.nan}),
    ],
)  # fmt: skip
def test_a_corrupt_file_is_measured_again_with_a_warning(
    content: bytes, measurements: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = cost_model()
    stored(tmp_path).write_bytes(content)
    measurements.clear()
    with caplog.at_level(logging.WARNING):
        assert cost_model() == good
    assert measurements
    assert "measuring again" in caplog.text
    assert str(stored(tmp_path)) in caplog.text
    measurements.clear()
    assert cost_model() == good  # it was replaced
    assert not measurements


def test_a_file_that_another_program_wrote_by_the_same_rules_is_believed(
    measurements: list[int], tmp_path: Path
) -> None:
    path = tmp_path / "cost.json"
    path.write_bytes(spoiled())
    assert cost_model(path) == CostModel(**GOOD)
    assert not measurements


def test_a_folder_that_cannot_be_written_does_not_fail(
    measurements: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        model = cost_model()
    assert model.exponent == pytest.approx(2.5)
    assert "cannot be stored" in caplog.text


def test_a_failed_write_leaves_the_old_file_whole(
    measurements: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "cost.json"
    path.write_text("{}")

    def fail(source: str, target: str) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    assert cost_model(path).exponent == pytest.approx(2.5)
    assert path.read_text() == "{}"
    assert list(tmp_path.iterdir()) == [path]


def test_seconds_grow_with_the_size_and_stop_at_the_iterations() -> None:
    model = CostModel(1e-6, 2.0)
    assert model.seconds(100, 50) == pytest.approx(1e-6 * 100**2 * 50)
    assert model.seconds(200, 50) == pytest.approx(4 * model.seconds(100, 50))
    assert model.seconds(100, 10**9) == model.seconds(100, 10**6)


@pytest.mark.parametrize(("seconds", "exponent"), [((1e-3, 1e-3), 1.5), ((1e-6, 1.0), 3.5)])
def test_odd_measurements_are_kept_in_bounds(
    seconds: tuple[float, float], exponent: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    times = iter(seconds)
    monkeypatch.setattr(cost, "_eigendecomposition_seconds", lambda n: next(times))
    monkeypatch.setattr(cost, "_factorisation_flops", lambda: 1e10)
    assert cost_model(tmp_path / "cost.json").exponent == exponent


def test_a_real_measurement_is_plausible(tmp_path: Path) -> None:
    model = cost_model(tmp_path / "cost.json")
    assert 1e-7 < model.seconds(100, 1) < 10
    assert 1e7 < model.flops < 1e14


def test_predictions_follow_what_is_observed(measurements: list[int], tmp_path: Path) -> None:
    before = cost_model()
    learn({"sparse": (3.0, 2.9), "iteration": (0.1, 10.0), "dense": (1.0, 0.0)})  # right; too short; not predicted
    assert cost_model() == before
    for _ in range(30):
        model = cost_model()
        learn({"sparse": (6.0, 2.0 * model.factor("sparse")), "randomised": (1.0, 9.0 * model.factor("randomised"))})
    assert cost_model().factor("sparse") == pytest.approx(3.0, rel=0.3)
    assert cost_model().factor("randomised") == pytest.approx(0.25)  # at most so far
    assert cost_model().factor("iteration") == 1.0
    assert dataclasses.replace(cost_model(), learned={}) == before
    assert len(measurements) == 3


def test_what_cannot_be_stored_is_not_learned(
    measurements: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "cost.json"
    first = cost_model(path)

    def fail(source: str, target: str) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    learn({"sparse": (100.0, 1.0)}, path)
    assert cost_model(path) == first


def test_predictions_of_proofs_and_iterations_are_multiplied() -> None:
    network = trace(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval(), (1, 12, 12))
    plain = CostModel(1e-8, 2.5, 1e9)
    for stage in ("dense", "sparse", "randomised"):
        config = DCPConfig(proof=stage)
        slow = dataclasses.replace(plain, learned={stage: 2.0})
        one, other = (choose_proof(network, config, model, 1e12) for model in (plain, slow))
        assert one is not None
        assert other is not None
        assert other.seconds == pytest.approx(2 * one.seconds)
    slow = dataclasses.replace(plain, learned={"iteration": 3.0})
    assert iteration_seconds(network, slow) > 2 * iteration_seconds(network, plain)
