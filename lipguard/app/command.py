"""The verbs of the command line, one row each. Nothing here loads torch or Hydra, so that usage is shown at once."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

Run = Callable[["DictConfig"], Any]
Positional = Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True)
class Verb:
    """What `lipguard NAME` does.

    Attributes:
        name: of the verb, and of its configuration, ``configs/NAME.yaml``.
        summary: one line of the usage.
        positional: arguments as they were given -> Hydra's overrides; where a verb takes paths without a key, it gives
            them theirs.
        run: the composed configuration -> what a Hydra sweeper gets back.
    """

    name: str
    summary: str
    positional: Positional
    run: Run


def as_given(arguments: Sequence[str]) -> list[str]:
    """`lipguard train`: overrides alone; values that are paths pass whatever is in them."""
    return [_override(argument) for argument in arguments]


def networks_named(arguments: Sequence[str]) -> list[str]:
    """`lipguard certify CHECKPOINT [CHECKPOINT ...]`: one path, or a list of them."""
    paths, others = _apart(arguments)
    if not paths:
        return others
    return [f"checkpoint={paths[0]}" if len(paths) == 1 else f"checkpoint=[{','.join(paths)}]", *others]


def files_named(arguments: Sequence[str]) -> list[str]:
    """`lipguard verify [CERTIFICATE.npz] CHECKPOINT`: paths without a key get theirs."""
    paths, others = _apart(arguments)
    return [f"{'certificate' if path.endswith(_CERTIFICATE) else 'checkpoint'}={path}" for path in paths] + others


def runs_named(arguments: Sequence[str]) -> list[str]:
    """`lipguard select RUN [RUN ...]`: the paths are one list."""
    runs, others = _apart(arguments)
    return [f"runs=[{','.join(runs)}]", *others] if runs else others


_CERTIFICATE, _WEIGHTS = ".npz'", (".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".pt2", ".onnx")
_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")


def _apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(paths, quoted; overrides and flags): what has no key and is no flag is a path, and so is what there is."""
    paths, others, before = [], [], ""
    for argument in arguments:
        plain = "=" not in argument and not argument.startswith(("-", "+", "~"))
        if before not in _WITH_VALUE and (plain or os.path.exists(argument) or _is_file_name(argument)):
            paths.append(_quoted(argument))
        else:
            others.append(_override(argument))
        before = argument
    return paths, others


def _is_file_name(argument: str) -> bool:
    """Whether it can only be one, as `epoch=0-step=23.ckpt`, also where there is no such file."""
    key = argument.partition("=")[0]
    return argument.count("=") > 1 and argument.endswith(_WEIGHTS) and key not in ("checkpoint", "certificate", "runs")


def _override(argument: str) -> str:
    """An override as it is; a value that is a path is quoted, and the name of one's own model gets its key."""
    key, is_one, value = argument.partition("=")
    if is_one and key == "model" and ":" in value:
        return f"builder={_quoted(value)}"
    return f"{key}={_quoted(value)}" if is_one and not _PLAIN.fullmatch(value) and os.path.exists(value) else argument


_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")  # what Hydra's grammar takes as it is


def _quoted(path: str) -> str:
    """A path may hold what Hydra reads: a quote ends it, backslashes count before one, `${` begins another key."""
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + (m[2] and "\\" + m[2]), path).replace("${", "\\${")
    return f"'{escaped}'"


def _from(name: str) -> Run:
    """The function `name` of the module `name` in `verbs/`, which is imported when it is called.

    A wrong override is so refused before torch is loaded.
    """

    def run(cfg: DictConfig) -> Any:
        return getattr(importlib.import_module(f"lipguard.app.verbs.{name}"), name)(cfg)

    return run


VERBS = {
    verb.name: verb
    for verb in (
        Verb("train", "train a network, with a certified Lipschitz bound logged every epoch", as_given, _from("train")),
        Verb(
            "certify",
            "bound a network (CHECKPOINT [CHECKPOINT ...], model=PACKAGE.MODULE:NAME) and save the certificate",
            networks_named,
            _from("certify"),
        ),
        Verb(
            "verify",
            "check the certificate in a checkpoint (CHECKPOINT), or in a file of its own (CERTIFICATE CHECKPOINT)",
            files_named,
            _from("verify"),
        ),
        Verb(
            "select",
            "choose a checkpoint by accuracy and bound (RUN [RUN ...]), and prove it again",
            runs_named,
            _from("select"),
        ),
        Verb(
            "plan",
            "print what would be solved (CHECKPOINT, model=NAME or PACKAGE.MODULE:NAME), without solving",
            networks_named,
            _from("plan"),
        ),
        Verb(
            "check",
            "print everything that is in the way of a bound (CHECKPOINT, model=NAME or PACKAGE.MODULE:NAME)",
            networks_named,
            _from("check"),
        ),
    )
}
