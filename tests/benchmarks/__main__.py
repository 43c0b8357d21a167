"""The one entry point of all studies: `python -m tests.benchmarks STUDY [options]`."""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

STUDIES = sorted(path for path in (Path(__file__).parent / "studies").glob("*.py") if path.stem != "__init__")


def usage() -> str:
    """The studies, a line each: the first of what a file says of itself. None is imported for that."""
    summaries = {path.stem: (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0] for path in STUDIES}
    lines = [f"  {name:<18}{summary}" for name, summary in summaries.items()]
    head = "usage: python -m tests.benchmarks STUDY [options], from the checkout"
    return "\n".join([head, "", *lines, "", "`python -m tests.benchmarks STUDY --help` has the options of a study."])


def parser_of(name: str) -> argparse.ArgumentParser:
    """The options of a study."""
    study = importlib.import_module(f".studies.{name}", __package__)
    parser = argparse.ArgumentParser(
        prog=f"python -m tests.benchmarks {name}",
        description=study.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    study.add_options(parser)
    parser.set_defaults(run=study.run)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the study that the first argument names; 2 if it names none."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if not arguments or arguments[0] not in {path.stem for path in STUDIES}:
        problem = f"unknown study {arguments[0]!r}\n" if arguments else ""
        print(problem + usage(), file=sys.stderr)
        return 2
    name, *options = arguments
    chosen = parser_of(name).parse_args(options)
    return chosen.run(chosen) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
