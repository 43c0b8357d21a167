"""`lipguard select`, over runs of `lipguard train`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from integration.tiny_training import LIGHTNING_WARNINGS

import lipguard
from lipguard.app.classifier.checkpoints import load_classifier
from lipguard.app.console.folders import config_folder
from lipguard.app.verbs.train import train
from lipguard.choosing.selection import pareto_front, read_candidate
from lipguard.choosing.selection import select as select_checkpoint
from lipguard.errors import CertificateError, ConfigError

Command = Callable[..., int]
pytestmark = LIGHTNING_WARNINGS


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        for seed, rate in ((0, 0.01), (1, 0.001)):
            overrides = [
                f"paths.output_dir={folder}/run{seed}", "trainer.max_epochs=2", "+trainer.limit_train_batches=6",
                f"seed={seed}", f"model.learning_rate={rate}", "plot=false", "+callbacks.checkpoint.save_top_k=-1",
            ]  # fmt: skip
            train(hydra.compose("train", overrides))
    return folder


def test_the_rules(runs: Path) -> None:
    everything = select_checkpoint([runs], load_classifier)
    assert len(everything.candidates) >= 4
    assert not everything.refused
    best = max(c.accuracy for c in everything.candidates)
    assert everything.chosen.accuracy >= best - 0.01
    assert everything.chosen.bound == min(c.bound for c in everything.candidates if c.accuracy >= best - 0.01)
    smooth = select_checkpoint([runs / "run0", runs / "run1"], load_classifier, accuracy=0.0)
    assert smooth.chosen.bound == min(c.bound for c in everything.candidates)
    robust = select_checkpoint([runs], load_classifier, radius=0.25)
    assert robust.chosen.certified[0.25] == max(c.certified[0.25] for c in everything.candidates)
    with pytest.raises(ConfigError, match=r"accuracy of at least 2, but the best"):
        select_checkpoint([runs], load_classifier, accuracy=2.0)
    with pytest.raises(ConfigError, match=r"one that was logged, 0\.1, 0\.25, 0\.5, but got 0\.3"):
        select_checkpoint([runs], load_classifier, radius=0.3)
    with pytest.raises(ConfigError, match="nothing at"):
        select_checkpoint([runs / "run7"], load_classifier)


def test_what_was_logged_is_what_is_read(runs: Path) -> None:
    for path in runs.rglob("*.ckpt"):
        candidate = read_candidate(path)
        model = load_classifier(path)
        assert lipguard.verify(candidate.certificate, model) == candidate.bound
        assert 0 <= candidate.certified[0.5] <= candidate.certified[0.1] <= candidate.accuracy <= 1


def test_the_front(runs: Path) -> None:
    found = select_checkpoint([runs], load_classifier)
    for radius in (None, 0.25):
        front = pareto_front(found.candidates, radius)
        for c in found.candidates:
            height = (lambda d: -d.bound) if radius is None else (lambda d: d.certified[0.25])
            beaten = any(d.accuracy >= c.accuracy and height(d) >= height(c) for d in front)
            assert beaten


def test_bounds_of_other_weights_take_no_part(runs: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.ckpt", tmp_path / "bad.ckpt"
    source = next(iter((runs / "run0").rglob("*.ckpt")))
    shutil.copy(source, good)
    state = torch.load(source, weights_only=True)
    name = next(iter(state["state_dict"]))
    state["state_dict"][name] = state["state_dict"][name] * 0.5
    torch.save(state, bad)
    (tmp_path / "broken.ckpt").write_bytes(b"x")
    found = select_checkpoint([tmp_path], load_classifier)
    assert [c.path for c in found.candidates] == [good]
    assert "other weights" in found.refused[bad]
    assert "left out" in str(found)
    with pytest.raises(ConfigError, match="found none"):
        select_checkpoint([bad], load_classifier)


def test_a_claim_that_does_not_hold_is_not_named(runs: Path, tmp_path: Path) -> None:
    state = torch.load(next(iter((runs / "run0").rglob("*.ckpt"))), weights_only=True)
    for callback in state["callbacks"].values():
        if "warm_start" in callback:
            metadata = callback["warm_start"]["certificate"]["metadata"]
            bound = read_candidate(next(iter((runs / "run0").rglob("*.ckpt")))).bound
            callback["warm_start"]["certificate"]["metadata"] = metadata.replace(bound.hex(), (bound / 2).hex())
    torch.save(state, tmp_path / "false.ckpt")
    with pytest.raises(CertificateError):
        select_checkpoint([tmp_path], load_classifier)


def spoiled(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A checkpoint whose monitor's state was changed."""
    state = torch.load(source, weights_only=True)
    for callback in state["callbacks"].values():
        if "warm_start" in callback:
            change(callback)
    torch.save(state, target)
    return target


def test_a_bound_on_a_domain_takes_no_part(runs: Path, tmp_path: Path) -> None:
    source = next(iter((runs / "run0").rglob("*.ckpt")))
    model = load_classifier(source)
    within = lipguard.certify(model, model.input_shape, domain=lipguard.Ball(0.0, 0.01)).restricted
    assert within is not None
    assert within.bound < read_candidate(source).bound
    state = within.certificate.to_state()
    path = spoiled(source, tmp_path / "a.ckpt", lambda own: own["warm_start"].update(certificate=state))
    with pytest.raises(CertificateError, match=r"for Ball\(0, 0\.01\) only"):
        read_candidate(path)
    shutil.copy(source, tmp_path / "b.ckpt")
    found = select_checkpoint([tmp_path], load_classifier)
    assert found.chosen.path.name == "b.ckpt"
    assert "Ball" in found.refused[path]


def test_a_bound_of_a_margin_takes_no_part(runs: Path, tmp_path: Path) -> None:
    source = next(iter((runs / "run0").rglob("*.ckpt")))
    model = load_classifier(source)
    margins = lipguard.certify_margins(
        model, model.input_shape, lipguard.certify(model, model.input_shape), pairs=[(0, 1)]
    )
    certificate = margins.certificate(0, 1)
    assert certificate is not None

    def change(own: dict[str, Any]) -> None:
        own["warm_start"]["certificate"] = certificate.to_state()
        own["history"][-1]["digest"] = certificate.digest

    path = spoiled(source, tmp_path / "a.ckpt", change)
    with pytest.raises(ConfigError, match="other weights"):
        select_checkpoint([path], load_classifier)


@pytest.mark.parametrize(
    "lie",
    [
        {"certified_accuracy_eps_0.25": 1.5}, {"certified_accuracy_eps_0.25": float("nan")}, {"accuracy": -0.1},
        {"certified_accuracy_eps_0.25": "all"}, {"certified_accuracy_eps_x": 0.5}, {"epoch": "last"},
        {"accuracy": float("inf")},
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_take_no_part(runs: Path, tmp_path: Path, lie: dict[str, object]) -> None:
    source = next(iter((runs / "run0").rglob("*.ckpt")))
    path = spoiled(source, tmp_path / "a.ckpt", lambda own: own["history"][-1].update(lie))
    with pytest.raises(CertificateError, match="its monitor"):
        read_candidate(path)


def test_a_proof_that_fails_too_often_is_not_named(runs: Path, tmp_path: Path) -> None:
    source = next(iter((runs / "run0").rglob("*.ckpt")))
    model = load_classifier(source)
    config = lipguard.DCPConfig(proof="randomised", failure_probability=1e-6)
    certificate = lipguard.certify(model, model.input_shape, config).certificate
    assert certificate.proof == "randomised"
    state = certificate.to_state()
    path = spoiled(source, tmp_path / "a.ckpt", lambda own: own["warm_start"].update(certificate=state))
    with pytest.raises(CertificateError, match="at most 1e-09 is accepted"):
        select_checkpoint([path], load_classifier)
    assert select_checkpoint([path], load_classifier, failure_probability=1e-6).chosen.path == path


def test_the_command(runs: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("select", str(runs / "run0"), str(runs / "run1"), f"plot={tmp_path}/front.png") == 0
    printed = capsys.readouterr().out
    assert "chosen, and proved again: " in printed
    assert "certified at 0.25, as logged" in printed
    assert (tmp_path / "front.png").stat().st_size > 5000
    assert command("select", str(runs), "radius=0.25", f"plot={tmp_path}/radius.png") == 0
    assert "the highest certified accuracy at 0.25, as logged" in capsys.readouterr().out
    assert command("select", str(runs), "accuracy=2") == 1
    assert "but the best checkpoint has" in capsys.readouterr().err
    assert command("select", "nowhere") == 1


def test_the_policy_of_a_checkpoint_callback(tmp_path: Path) -> None:
    from integration.tiny_training import Tiny, fit, trainer
    from pytorch_lightning.callbacks import ModelCheckpoint

    from lipguard import LipschitzMonitor

    for least in (0.7, 1.1):
        monitor = LipschitzMonitor(min_accuracy=least)
        kept = ModelCheckpoint(tmp_path / str(least), monitor="lipschitz/selection", mode="min")
        fit(Tiny(), trainer(tmp_path, monitor, kept, max_epochs=5))
        able = [row for row in monitor.history if row["accuracy"] >= least]
        best = min(able, key=lambda r: r["bound"]) if able else max(monitor.history, key=lambda r: r["accuracy"])
        assert f"epoch={best['epoch']}-" in kept.best_model_path
