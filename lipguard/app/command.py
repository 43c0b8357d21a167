"""The verbs of the command line, one row each. Nothing here loads torch or Hydra, so that usage is shown at once."""

from __future__ import annotations

import importlib
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


def files_named(arguments: Sequence[str]) -> list[str]:
    """`lipguard verify [CERTIFICATE.npz] CHECKPOINT`: paths without a key get theirs."""
    named = []
    for argument in arguments:
        key = "certificate" if argument.endswith(".npz") else "checkpoint"
        named.append(f"{key}={_quoted(argument)}" if _is_path(argument) else argument)
    return named


def runs_named(arguments: Sequence[str]) -> list[str]:
    """`lipguard select RUN [RUN ...]`: the paths are one list."""
    runs = [_quoted(argument) for argument in arguments if _is_path(argument)]
    others = [argument for argument in arguments if not _is_path(argument)]
    return [f"runs=[{','.join(runs)}]", *others] if runs else others


def _is_path(argument: str) -> bool:
    return "=" not in argument and not argument.startswith(("-", "+", "~"))


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace("'", "\\'")  # a path may hold what Hydra reads
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
        Verb("train", "train a network, with a certified Lipschitz bound logged every epoch", list, _from("train")),
        Verb(
            "certify",
            "bound the network of a checkpoint (checkpoint=PATH or [A,B,...]) and save the certificate",
            list,
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
            "print what would be solved (model=NAME or checkpoint=PATH), without solving",
            list,
            _from("plan"),
        ),
        Verb(
            "check",
            "print everything that is in the way of a bound (model=NAME or checkpoint=PATH)",
            list,
            _from("check"),
        ),
    )
}
