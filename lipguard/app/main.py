"""The console script: ``lipguard VERB [OVERRIDE ...]``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig

VERBS = {
    "train": "train a network, with a certified Lipschitz bound logged every epoch",
    "certify": "bound the network of a checkpoint (checkpoint=PATH or [A,B,...]) and save the certificate",
    "verify": "check the certificate in a checkpoint (CHECKPOINT), or in a file of its own (CERTIFICATE CHECKPOINT)",
    "select": "choose a checkpoint by accuracy and bound (RUN [RUN ...]), and prove it again",
    "plan": "print what would be solved (model=NAME or checkpoint=PATH), without solving",
}


def usage() -> str:
    """What the command expects, in a few lines."""
    verbs = "\n".join(f"  {verb:<9}{summary}" for verb, summary in VERBS.items())
    return (
        f"usage: lipguard VERB [OVERRIDE ...]\n\n{verbs}\n\n"
        "Overrides are Hydra's, for example: lipguard train trainer.max_epochs=3 seed=1\n"
        "`lipguard VERB --help` lists what can be overridden."
    )


def main() -> None:
    """Run the verb that the first argument names; exits with 2 if it names none, with 1 after an error."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if not arguments or arguments[0] not in VERBS:
        problem = f"lipguard: unknown verb {arguments[0]!r}.\n" if arguments else ""
        print(problem + usage(), file=sys.stderr)
        sys.exit(2)
    verb, *overrides = arguments
    named = {"verify": _files_named, "select": _runs_named}
    run_verb(verb, named[verb](overrides) if verb in named else overrides)


def _files_named(arguments: Sequence[str]) -> list[str]:
    """`lipguard verify [CERTIFICATE.npz] CHECKPOINT`: paths without a key get theirs."""
    named = []
    for argument in arguments:
        key = "certificate" if argument.endswith(".npz") else "checkpoint"
        named.append(f"{key}={_quoted(argument)}" if _is_path(argument) else argument)
    return named


def _runs_named(arguments: Sequence[str]) -> list[str]:
    """`lipguard select RUN [RUN ...]`: the paths are one list."""
    runs = [_quoted(argument) for argument in arguments if _is_path(argument)]
    others = [argument for argument in arguments if not _is_path(argument)]
    return [f"runs=[{','.join(runs)}]", *others] if runs else others


def _is_path(argument: str) -> bool:
    return "=" not in argument and not argument.startswith(("-", "+", "~"))


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace("'", "\\'")  # a path may hold what Hydra reads
    return f"'{escaped}'"


def run_verb(verb: str, overrides: Sequence[str]) -> None:
    """Compose the verb's configuration and call its function, by Hydra (which also makes sweeps of ``-m``)."""
    import hydra  # imported here, as usage needs none of it

    from lipguard.app.console.failure import errors_end_the_command
    from lipguard.app.console.folders import config_folder

    with errors_end_the_command(), _hydra_process(verb, overrides):
        decorate = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=verb)
        decorate(_task(verb))()


def _task(verb: str) -> Callable[[DictConfig], Any]:
    """The verb's function, found in the module of its name; its errors end the command inside Hydra's job."""

    def task(cfg: DictConfig) -> Any:
        from lipguard.app.console.failure import errors_end_the_command

        # Imported here, so that a wrong override is refused before torch is loaded.
        function = getattr(importlib.import_module(f"lipguard.app.verbs.{verb}"), verb)
        with errors_end_the_command():
            return function(cfg)

    return task


@contextmanager
def _hydra_process(verb: str, overrides: Sequence[str]) -> Iterator[None]:
    """Hydra reads the process's arguments, and hands on its errors instead of printing them if told to."""
    arguments, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [f"lipguard {verb}", *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = arguments
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


if __name__ == "__main__":
    main()
