from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.commands import message

from lipguard.app.command import VERBS
from lipguard.app.console.folders import require_writable
from lipguard.app.main import run_verb
from lipguard.errors import ConfigError


@pytest.mark.parametrize("arguments", [(), ("dance",), ("dance", "a=1"), ("a=1",)])
def test_without_a_known_verb_usage_is_shown(command, capsys, arguments: tuple[str, ...]) -> None:
    assert command(*arguments) == 2
    text = capsys.readouterr().err
    assert "usage: lipguard VERB" in text
    assert all(f"  {verb} " in text for verb in VERBS)
    assert not arguments or repr(arguments[0]) in text


@pytest.mark.parametrize("flag", ["-h", "--help", "help"])
def test_usage_can_be_asked_for(command, capsys, flag: str) -> None:
    assert command(flag) == 0
    assert "usage: lipguard VERB" in capsys.readouterr().out


def test_usage_loads_neither_torch_nor_hydra() -> None:
    script = (
        "import sys; sys.argv = ['lipguard', '-h']; from lipguard.app.main import main; main();"
        "assert not {'torch', 'hydra', 'pytorch_lightning'} & set(sys.modules), 'usage is slow'"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("train", "data=cifar"), "Expected data to be one of digits, mnist, but got cifar."),
        (("plan", "model=cnn9"), "Expected model to be one of cnn1, small_cnn, but got cnn9."),
        (("train", "trainer.epochs=1"), "Could not override 'trainer.epochs'."),
        (("train", "trainer.epochs=1"), "(Keys of trainer: accelerator, default_root_dir, devices,"),
        (("train", "color=red"), "(Keys of the configuration: callbacks, checkpoint, data,"),
        (("train", "seed.x=red"), "Could not override 'seed.x'."),
        (("train", "seed"), "Error parsing override 'seed'"),
        (("train", "seed=${nothing}"), "Interpolation key 'nothing' not found"),
        (("certify",), "Expected model=PACKAGE.MODULE:NAME, or checkpoint=PATH, or both."),
        (("verify",), "checkpoint has no value. Give one with checkpoint=VALUE."),
        (("certify", "model=os:nothing"), "os has no nothing. It has "),
        (("certify", "model=nowhere.at_all:build"), "nowhere.at_all cannot be imported: ModuleNotFoundError"),
        (("certify", "model=os:"), "Expected model=PACKAGE.MODULE:NAME, but got model=os:."),
        (("certify", "model=os:getcwd"), "expected it to make a torch module, but it made a str."),
        (("certify", "model=torch.nn:Identity"), "Expected input_shape=[...], the shape of one sample"),
        (("certify", "epoch=0-step=23.ckpt"), "Expected checkpoint to be a file, but there is none at "),
        (("verify", "certificate=a.npz"), "Expected certificate to be a file, but there is none at "),
        (("certify", "checkpoint=a.ckpt"), "Expected checkpoint to be a file, but there is none at "),
        (("certify", "checkpoint=a.ckpt", "lipschitz.solver=magic"), "Expected solver to be one of "),
        (("train", "data=mnist"), "data.root has no value. Give one with data.root=VALUE."),
        (("train", "data=mnist", "data.root=nowhere"), "Expected data.root to be a folder, but there is none at "),
        (("train", "model=cnn1"), "The model expects images of shape (1, 28, 28), but the data have (1, 8, 8)."),
        (("train", "checkpoint=a.ckpt"), "Expected checkpoint to be a file, but there is none at "),
        (("plan", "model.layers=[]"), "Expected a network whose output is a vector of logits"),
    ],
)
def test_errors_are_one_paragraph(command, capsys, arguments: tuple[str, ...], expected: str) -> None:
    assert command(*arguments) == 1
    assert expected in message(capsys)


def test_process_is_left_as_it_was(command, monkeypatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    command("train", "data=cifar")
    assert os.environ["HYDRA_FULL_ERROR"] == "0"
    assert sys.argv == ["lipguard", "train", "data=cifar"]
    monkeypatch.delenv("HYDRA_FULL_ERROR")
    command("train", "data=cifar")
    assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.mark.parametrize("mode", [(), ("--multirun", "seed=1,2")])
def test_run_folder_that_cannot_be_made(command, capsys, tmp_path: Path, mode: tuple[str, ...]) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run"
    assert command("train", *mode, f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}") == 1
    assert f"Cannot write to the log folder {folder} (Not a directory)" in message(capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_run_folder(command, capsys, tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o555)
    assert command("train", f"hydra.run.dir={folder}") == 1
    assert f"Cannot write to the log folder {folder} (Permission denied)" in message(capsys)


def test_folder_in_which_no_file_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(ConfigError, match=rf"log folder {tmp_path} \(Permission denied\)"):
        require_writable(tmp_path)


def test_writable_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = require_writable(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert not list(folder.iterdir())


def test_bugs_keep_their_traceback(tmp_path: Path) -> None:
    def bug(cfg: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_verb(replace(VERBS["plan"], run=bug), [f"hydra.run.dir={tmp_path}"])


def test_configuration_can_be_shown(command, capsys) -> None:
    assert command("train", "--cfg", "job", "--package", "data") == 0
    assert "_target_: lipguard.app.data.images.DigitsData" in capsys.readouterr().out
