"""Composed configurations, the command in this process, and the package as a wheel installs it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig

from lipguard.app.console.folders import config_folder
from lipguard.app.main import main

Compose = Callable[..., DictConfig]
Command = Callable[..., int]


@pytest.fixture
def compose(tmp_path: Path) -> Iterator[Compose]:
    """`compose(verb, *overrides)`: what the verb's function gets, with `tmp_path / "run"` as its run folder."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        yield lambda verb, *overrides: hydra.compose(verb, [f"paths.output_dir={tmp_path / 'run'}", *overrides])


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Command]:
    """`command(*arguments)`: the exit code of `lipguard` in this process and in the folder `tmp_path`."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["lipguard", *arguments])
        monkeypatch.chdir(tmp_path)
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    yield run
    for handler in root.handlers:  # Hydra sets up logging for the whole process
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel of this checkout was installed into, with the console script in `bin`."""
    folder = tmp_path_factory.mktemp("installed")
    checkout = Path(__file__).parents[2]
    wheels = folder / "wheels"
    _check([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)], cwd=checkout)
    (wheel,) = wheels.glob("*.whl")
    target = folder / "site"
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", "--target", str(target)]
    _check([sys.executable, "-m", "pip", "install", *options, str(wheel)], cwd=folder)
    return target


@pytest.fixture
def installed_command(installed: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the installed console script, in the folder `tmp_path`."""
    environment = os.environ | {"PYTHONPATH": str(installed)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [str(installed / "bin" / "lipguard"), *arguments]
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def _check(line: list[str], cwd: Path) -> None:
    done = subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
