"""The examples run as a user runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_own_trainer(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "own_trainer.py")]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr

    rows = re.findall(r"epoch (\d): ([\d.]+) <= L <= ([\d.]+) \(norm product ([\d.]+)\)", run.stdout)
    assert [row[0] for row in rows] == list("01234")
    for lower, bound, product in (map(float, row[1:]) for row in rows):
        assert 0 < lower <= bound <= product
    assert Path(run.stdout.split("smallest bound: ")[1].strip()).is_file()
    assert "LipschitzMonitor: The" not in run.stderr  # no failed estimate
