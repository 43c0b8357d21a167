"""The package as a wheel installs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


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
