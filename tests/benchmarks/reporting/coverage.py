"""The page docs/coverage.md, from the answers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..measuring.coverage import BOX, IN_TIME, PATIENCE, QUESTIONS, Answer
from .markdown import markdown

_LONGEST = 160  # characters of a reason
_TITLES = {"global": "for all inputs", "domain": f"on [{BOX[0]:g}, {BOX[1]:g}]"}


def page(answers: Sequence[Answer], machine: str) -> str:
    """All of it: counts at the top, how to run it, and a table for each library."""
    libraries = list(dict.fromkeys(answer.library for answer in answers))
    parts = [
        "# Which architectures are read",
        f"What becomes of networks that people use when `lipguard.plan` reads them, each in a process of its own: for "
        f"all inputs, and on a box. At most {IN_TIME:g} s count as planned soon; after {PATIENCE:g} s there is no "
        f"answer. {machine}",
        counts(answers),
        "```bash\npython -m tests.benchmarks coverage --docs docs/coverage.md\n```",
        "torchvision, timm and segmentation-models-pytorch need another torch than the tests: make an environment for "
        "them, and name its interpreter. Without one only the small networks are asked.",
        "```bash\npython -m venv /tmp/libraries && /tmp/libraries/bin/pip install torchvision timm "
        "segmentation-models-pytorch scipy tqdm\n"
        "python -m tests.benchmarks coverage --python /tmp/libraries/bin/python --docs docs/coverage.md\n```",
        *(f"## {library}\n\n{_table([a for a in answers if a.library == library])}" for library in libraries),
    ]
    return "\n\n".join(parts) + "\n"


def counts(answers: Sequence[Answer]) -> str:
    """How many networks ended in which way, for each question."""
    head = ("", "networks", "planned", f"... in {IN_TIME:g} s", "refused", "no answer", "another exception")
    rows = [head]
    for question in QUESTIONS:
        own = [a for a in answers if a.question == question and a.end != "not there"]
        ends = Counter(a.end for a in own)
        found = (len(own), ends["planned"], sum(a.is_soon for a in own), *(ends[e] for e in _OTHERS))
        rows.append((_TITLES[question], *map(str, found)))
    return markdown(rows)


_OTHERS = ("refused", "no answer", "exception")


def _table(answers: Sequence[Answer]) -> str:
    names = list(dict.fromkeys(answer.name for answer in answers))
    rows = [("network", *(_TITLES[question] for question in QUESTIONS), "reason")]
    for name in names:
        own = {a.question: a for a in answers if a.name == name}
        cells = [_cell(own.get(question)) for question in QUESTIONS]
        words = [own[q].words for q in reversed(QUESTIONS) if q in own and own[q].words]
        reason = words[0] if words else ""
        short = reason if len(reason) <= _LONGEST else reason[:_LONGEST].rsplit(" ", 1)[0] + " ..."
        rows.append((name, *cells, short.replace("|", "\\|").replace("<", "&lt;")))
    return markdown(rows)


def _cell(answer: Answer | None) -> str:
    if answer is None:
        return "-"
    return f"{answer.seconds:.1f} s" if answer.end == "planned" else answer.end
