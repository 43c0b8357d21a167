from __future__ import annotations

from pathlib import Path

from lipguard.app.console.folders import config_folder


def test_wheel_has_every_configuration(installed: Path) -> None:
    def files(folder: Path) -> list[str]:
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.yaml"))

    assert files(installed / "lipguard" / "configs") == files(config_folder())
    assert len(files(config_folder())) > 10


def test_wheel_has_the_licence(installed: Path) -> None:
    (found,) = installed.glob("lipguard-*.dist-info/licenses/docs/LICENSE")
    assert found.read_text() == (Path(__file__).parents[2] / "docs" / "LICENSE").read_text()
    assert "Apache License" in found.read_text()


def test_console_script_trains_from_the_wheel_alone(installed_command, installed: Path, tmp_path: Path) -> None:
    done = installed_command("train", "debug=fast")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "train").iterdir()
    assert (folder / "accuracy_and_bounds.png").is_file()
    assert (folder / ".hydra" / "config.yaml").is_file()
    assert "Best checkpoint (lipschitz/bound = " in done.stdout
    assert "Epoch 0: 100%" in done.stdout + done.stderr  # the progress bar
    shown = installed_command("train", "--info", "searchpath")
    assert str(installed / "lipguard" / "configs") in shown.stdout


def test_console_script_without_a_verb(installed_command) -> None:
    done = installed_command()
    assert done.returncode == 2
    assert "usage: lipguard VERB" in done.stderr
