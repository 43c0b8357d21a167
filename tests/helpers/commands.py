"""Fixtures for the command line: composed configurations, and the command in this process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Compose = Callable[..., Any]
Command = Callable[..., int]


@pytest.fixture
def compose(tmp_path: Path) -> Iterator[Compose]:
    """`compose(verb, *overrides)`: what the verb's function gets, with `tmp_path / "run"` as its run folder."""
    import hydra

    from lipguard.app.console.folders import config_folder

    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        yield lambda verb, *overrides: hydra.compose(verb, [f"paths.output_dir={tmp_path / 'run'}", *overrides])


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Command]:
    """`command(*arguments)`: the exit code of `lipguard` in this process and in the folder `tmp_path`."""
    from lipguard.app.main import main

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


def message(capsys: pytest.CaptureFixture[str]) -> str:
    """What the command said on stderr: one paragraph."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert text.startswith("lipguard: ")
    assert text.count("\n") == 1
    return text
