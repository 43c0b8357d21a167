"""The console script: ``lipguard VERB [OVERRIDE ...]``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lipguard.app.command import VERBS, Run, Verb

if TYPE_CHECKING:
    from omegaconf import DictConfig


def usage() -> str:
    """What the command expects, in a few lines."""
    verbs = "\n".join(f"  {verb.name:<9}{verb.summary}" for verb in VERBS.values())
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
    name, *given = arguments
    run_verb(VERBS[name], given)


def run_verb(verb: Verb, arguments: Sequence[str]) -> None:
    """Compose the verb's configuration and call its function, by Hydra (which also makes sweeps of ``-m``)."""
    import hydra  # imported here, as usage needs none of it

    from lipguard.app.console.failure import errors_end_the_command
    from lipguard.app.console.folders import config_folder

    with errors_end_the_command(), _hydra_process(verb.name, verb.positional(arguments)):
        decorate = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=verb.name)
        decorate(_task(verb.run))()


def _task(run: Run) -> Run:
    """The verb's function, whose errors end the command inside Hydra's job."""

    def task(cfg: DictConfig) -> Any:
        from lipguard.app.console.failure import errors_end_the_command

        with errors_end_the_command():
            return run(cfg)

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
