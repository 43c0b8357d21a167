"""How a command ends after an error that is the user's to mend: one paragraph on stderr, exit code 1."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from lipguard.errors import LipguardError


@contextmanager
def errors_end_the_command() -> Iterator[None]:
    """End the process with a message for lipguard's and Hydra's own errors; a bug keeps its traceback.

    Raises:
        SystemExit: with code 1, after one of these errors.
    """
    try:
        yield
    except (LipguardError, HydraException, OmegaConfBaseException) as error:
        print(f"lipguard: {explain(error)}", file=sys.stderr)
        sys.exit(1)


def explain(error: Exception) -> str:
    """One paragraph on what went wrong and what the choices are."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"Expected {group} to be one of {', '.join(sorted(error.options))}, but got {name}."
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no value. Give one with {error.full_key}=VALUE."
    if isinstance(error, OmegaConfBaseException):
        return _paragraph(str(error.msg or error))
    return _paragraph(str(error)) + _known_keys(error.__cause__)


def _known_keys(cause: BaseException | None) -> str:
    """The keys beside which an unknown one was sought."""
    node = cause.parent_node if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) else None
    if not isinstance(node, DictConfig):
        return ""
    place = node._get_full_key(None) or "the configuration"
    keys = sorted(str(key) for key in node if key != "hydra" and not str(key).startswith("_"))
    return f" (Keys of {place}: {', '.join(keys)}.)" if keys else ""


def _paragraph(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
