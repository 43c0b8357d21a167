"""What becomes of a network that is to be planned, in a process of its own: `python -m ... LIBRARY NAME QUESTION`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
QUESTIONS = ("global", "domain")  # for all inputs; on a box
BOX = (-3.0, 3.0)
IN_TIME, PATIENCE, _SETUP = 5.0, 60.0, 120.0  # seconds: that count as soon, that end it, to import and build


@dataclass(frozen=True)
class Answer:
    """What became of one question.

    Attributes:
        library, name, question: which one.
        end: "planned", "refused", "no answer", "exception", or "not there" where the library has no such network.
        seconds: of the plan.
        words: of a refusal or an exception, in one line.
    """

    library: str
    name: str
    question: str
    end: str
    seconds: float = 0.0
    words: str = ""

    @property
    def is_soon(self) -> bool:
        """Whether it was planned in the time that counts."""
        return self.end == "planned" and self.seconds <= IN_TIME


def ask(python: str, library: str, name: str, question: str, threads: int) -> Answer:
    """Ask in a fresh process of an interpreter that has the library."""
    command = [python, "-m", "tests.benchmarks.measuring.coverage", library, name, question]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_SETUP + PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return Answer(library, name, question, "no answer", time.monotonic() - began)
    last = done.stdout.strip().splitlines()[-1:]
    if not last or not last[0].startswith("{"):
        words = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        end = "no answer" if done.returncode < 0 else "exception"
        return Answer(library, name, question, end, time.monotonic() - began, words)
    return Answer(**json.loads(last[0]))


def answered(library: str, name: str, question: str) -> Answer:
    """Ask in this process."""
    import torch

    import lipguard
    from lipguard.errors import LipguardError

    from ..networks.libraries import LIBRARIES

    torch.manual_seed(0)
    try:
        case = next(case for case in LIBRARIES[library]() if case.name == name)
        model = case.build().eval()
    except (ImportError, RuntimeError, AttributeError, StopIteration) as error:
        return Answer(library, name, question, "not there", 0.0, _line(error))
    domain = lipguard.Box(*BOX) if question == "domain" else None
    config = lipguard.DCPConfig(max_seconds=PATIENCE)
    began = time.perf_counter()

    def now(end: str, words: str = "") -> Answer:
        return Answer(library, name, question, end, time.perf_counter() - began, words)

    try:
        lipguard.plan(model, case.shape, config, domain=domain)
    except LipguardError as error:
        return now("refused", _line(error))
    except Exception as error:  # which is what is looked for
        return now("exception", f"{type(error).__name__}: {_line(error)}")
    return now("planned")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    print(json.dumps(asdict(answered(*sys.argv[1:4]))))
