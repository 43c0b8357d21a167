from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import lipguard
from lipguard.app.classifier.checkpoints import load_classifier
from lipguard.app.classifier.models import Classifier
from lipguard.app.command import files_named
from lipguard.app.verbs.certify import certify
from lipguard.app.verbs.plan import plan
from lipguard.app.verbs.verify import verify
from lipguard.errors import CertificateError, ConfigError


def checkpoint(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    layers = [
        {"kind": "conv", "channels": 2, "kernel": 3},
        {"kind": "relu"},
        {"kind": "flatten"},
        {"kind": "linear", "features": 4},
    ]
    model = Classifier(layers, [1, 5, 5])
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}, path)
    return path


def test_certificate_of_a_checkpoint_is_saved_and_verified(compose, tmp_path: Path, capsys) -> None:
    path = checkpoint(tmp_path / "a.ckpt", seed=0)
    bound = certify(compose("certify", f"checkpoint={path}"))
    certificate = tmp_path / "run" / "certificate.npz"
    output = capsys.readouterr().out
    assert f"{bound:.3f}"[:-1] in output
    assert str(certificate) in output
    assert lipguard.Certificate.load(certificate)

    files = (f"certificate={certificate}", f"checkpoint={path}")
    assert verify(compose("verify", *files)) == bound
    assert repr(bound) in capsys.readouterr().out


def test_certificate_of_another_network_is_refused(compose, tmp_path: Path) -> None:
    certify(compose("certify", f"checkpoint={checkpoint(tmp_path / 'a.ckpt', seed=0)}"))
    other = checkpoint(tmp_path / "b.ckpt", seed=1)
    certificate = tmp_path / "run" / "certificate.npz"
    with pytest.raises(CertificateError):
        verify(compose("verify", f"certificate={certificate}", f"checkpoint={other}"))


def test_file_that_is_no_certificate_is_refused(compose, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt", seed=0)
    with pytest.raises(CertificateError):
        verify(compose("verify", f"certificate={path}", f"checkpoint={path}"))


def test_plan_of_a_model_and_of_a_checkpoint(compose, tmp_path: Path, capsys) -> None:
    plan(compose("plan"))
    of_model = capsys.readouterr().out
    plan(compose("plan", f"checkpoint={checkpoint(tmp_path / 'a.ckpt', seed=0)}"))
    of_checkpoint = capsys.readouterr().out
    assert of_model.strip()
    assert of_checkpoint.strip()
    assert of_model != of_checkpoint


def test_several_checkpoints_are_certified_side_by_side(compose, tmp_path: Path, capsys) -> None:
    paths = [checkpoint(tmp_path / f"{seed}.ckpt", seed) for seed in range(3)]
    smallest = certify(compose("certify", f"checkpoint=[{','.join(map(str, paths))}]", "lipschitz.workers=2"))
    header, *rows = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert "product bound" in header
    assert len(rows) == 3
    bounds = []
    for i, path in enumerate(paths):
        certificate = lipguard.Certificate.load(tmp_path / "run" / f"certificate-{i}.npz")
        bounds.append(lipguard.verify(certificate, load_classifier(path)))
        assert str(path) in rows[i]
    assert smallest == min(bounds)


def test_there_is_a_checkpoint_to_certify(compose) -> None:
    with pytest.raises(ConfigError, match="at least one checkpoint"):
        certify(compose("certify", "checkpoint=[]"))


def test_a_cluster_that_does_not_answer_is_a_clear_error(compose, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    path = checkpoint(tmp_path / "a.ckpt", seed=0)
    options = ("executor=dask", "executor.address=tcp://127.0.0.1:9", "+executor.timeout=0.5")
    with pytest.raises(ConfigError, match=r"executor.address=tcp://127.0.0.1:9"):
        certify(compose("certify", f"checkpoint=[{path}]", *options))


def test_a_plan_is_drawn(compose, tmp_path: Path, capsys) -> None:
    plan(compose("plan", f"plot={tmp_path / 'plan.png'}"))
    assert "considered:" in capsys.readouterr().out
    assert (tmp_path / "plan.png").exists()


def test_a_full_disk_costs_the_file_not_the_bound(compose, tmp_path: Path, capsys, monkeypatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = checkpoint(tmp_path / "a.ckpt", seed=0)
    bound = certify(compose("certify", f"checkpoint={path}"))
    output = capsys.readouterr().out
    assert f"{bound:.3f}"[:-1] in output
    assert "not saved" in output
    assert "No space left" in output


def test_what_a_checkpoint_carries_is_verified(compose, tmp_path: Path, capsys) -> None:
    path = checkpoint(tmp_path / "a.ckpt", seed=0)
    with pytest.raises(CertificateError, match="holds no certificate"):
        verify(compose("verify", f"checkpoint={path}"))
    model = load_classifier(path)
    report = lipguard.certify(model, model.input_shape)
    state = torch.load(path, weights_only=True)
    state["callbacks"] = {"LipschitzMonitor": {"warm_start": report.warm_start.to_state()}}
    torch.save(state, tmp_path / "it's [a] run.ckpt")
    assert verify(compose("verify", *files_named([str(tmp_path / "it's [a] run.ckpt")]))) == report.bound
    assert "at most" in capsys.readouterr().out
    certificate = report.certificate.save(tmp_path / "c.npz")
    named = files_named([str(certificate), str(path), "deterministic=true", "fresh=true"])
    assert verify(compose("verify", *named)) == report.bound


def test_a_bound_on_a_domain(compose, tmp_path: Path, capsys) -> None:
    path = checkpoint(tmp_path / "a.ckpt", seed=0)
    certify(compose("certify", f"checkpoint={path}", "domain=[0,0.1]"))
    assert "on the domain: bound" in capsys.readouterr().out
    certificate = tmp_path / "run" / "certificate-domain.npz"
    files = (f"certificate={certificate}", f"checkpoint={path}")
    assert verify(compose("verify", *files, "domain=[0,0.1]")) == 0  # all ReLUs are off there
    assert "on inputs between 0 and 0.1 the Lipschitz constant" in capsys.readouterr().out
    for wrong in ((), ("domain=[0,0.2]",)):
        with pytest.raises(CertificateError, match=r"inputs between 0 and 0\.1 only\. Say domain=\[0\.0,0\.1\]"):
            verify(compose("verify", *files, *wrong))
    everywhere = tmp_path / "run" / "certificate.npz"
    assert verify(compose("verify", f"certificate={everywhere}", f"checkpoint={path}", "domain=[0,0.2]")) > 0
    assert "on all inputs the Lipschitz constant" in capsys.readouterr().out
    model = load_classifier(path)
    around = lipguard.certify(model, model.input_shape, domain=lipguard.Ball(0.0, 0.1)).restricted
    assert around is not None
    around.certificate.save(certificate)
    with pytest.raises(CertificateError, match=r"on Ball\(0, 0\.1\) only, which the command cannot name"):
        verify(compose("verify", *files))
    for domain, message in (("[1]", "two numbers"), ("[1,0]", "low <= high"), ("0.5", "two numbers")):
        with pytest.raises(ConfigError, match=message):
            certify(compose("certify", f"checkpoint={path}", f"domain={domain}"))
    with pytest.raises(ConfigError, match="one checkpoint at a time"):
        certify(compose("certify", f"checkpoint=[{path}]", "domain=[0,1]"))
