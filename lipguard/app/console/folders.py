"""The folders of a command: where its configurations are read from, and where it writes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lipguard.app.console.failure import errors_end_the_command
from lipguard.errors import ConfigError


def config_folder() -> Path:
    """The folder of the Hydra configurations: in the package once installed, beside it in a checkout.

    Raises:
        ConfigError: neither is there.
    """
    package = Path(__file__).resolve().parents[2]
    candidates = (package / "configs", package.parent / "configs")
    for folder in candidates:
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(f"Expected the configurations of lipguard in one of {', '.join(map(str, candidates))}.")


def require_writable(folder: str | Path) -> Path:
    """Make the folder and try it with a file that is gone at once.

    Raises:
        ConfigError: the folder cannot be made, or no file can be made in it.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(
            f"Cannot write to the log folder {path.absolute()} ({error.strerror}). "
            "Choose another with hydra.run.dir=PATH, or run from a folder that you can write to."
        ) from error
    return path


class RunFolderCheck(Callback):
    """Hydra callback: tries the run folder before Hydra makes it, whose own error would be a traceback."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before a single run."""
        self._check(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before a sweep."""
        self._check(config, "hydra.sweep.dir")

    def _check(self, config: DictConfig, key: str) -> None:
        # Hydra turns what a callback raises into a warning; only the end of the process passes.
        with errors_end_the_command():
            require_writable(str(OmegaConf.select(config, key)))
