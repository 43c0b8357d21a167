"""Which architectures of torchvision, timm, segmentation-models-pytorch and of research are planned.

Each in a process of its own, for all inputs and on a box. `--docs FILE` writes the page. torchvision needs another
torch than the tests: `--python` names the interpreter of an environment that has it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from ..measuring.coverage import QUESTIONS, Answer, ask
from ..networks.libraries import LIBRARIES
from ..reporting.coverage import counts, page


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this study."""
    parser.add_argument(
        "--python", default=None, help="an interpreter that has the libraries; without it: research only"
    )
    parser.add_argument("--libraries", nargs="*", choices=list(LIBRARIES), help="which; by default all that there are")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time; more than one makes seconds longer")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each process")
    parser.add_argument("--keep", type=Path, help="a file of answers: those in it are not asked again")
    parser.add_argument("--docs", type=Path, help="the page to write")


def run(chosen: argparse.Namespace) -> None:
    """Ask, and print every answer; write the page."""
    libraries = chosen.libraries or (list(LIBRARIES) if chosen.python else ["research"])
    cases = [(library, case.name) for library in libraries for case in LIBRARIES[library]() if chosen.only in case.name]
    questions = [(*case, question) for case in cases for question in QUESTIONS]
    kept = chosen.keep is not None and chosen.keep.exists()
    known = [Answer(**state) for state in json.loads(chosen.keep.read_text())] if kept else []
    answers = {(a.library, a.name, a.question): a for a in known}
    waiting = [question for question in questions if question not in answers]
    python = chosen.python or sys.executable
    with ThreadPoolExecutor(chosen.jobs) as pool:
        for answer in pool.map(lambda question: ask(python, *question, chosen.threads), waiting):
            answers[answer.library, answer.name, answer.question] = answer
            print(
                f"{answer.library}  {answer.name}  {answer.question}: {answer.end} {answer.seconds:.1f} s", flush=True
            )
            if chosen.keep is not None:
                chosen.keep.write_text(json.dumps([asdict(a) for a in answers.values()], indent=1))
    found = [answers[question] for question in questions]
    print(counts(found))
    if chosen.docs is not None:
        machine = f"{platform.machine()}, {chosen.threads} threads, {chosen.jobs} at a time."
        chosen.docs.write_text(page(found, machine))
