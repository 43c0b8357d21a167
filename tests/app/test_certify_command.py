from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lipguard
from lipguard.app.certify import certify
from lipguard.app.models import Classifier
from lipguard.app.plan import plan
from lipguard.app.verify import verify
from lipguard.errors import CertificateError


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
