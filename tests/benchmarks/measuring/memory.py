"""The most memory that a process held."""

from __future__ import annotations

import math
import os
from pathlib import Path


def peak_memory(process: int | None = None) -> float:
    """The most memory that a process (this one) held, in MB, and with it those that it started; NaN without /proc.

    Not `ru_maxrss`, which begins with what the parent held when it started this process.
    """
    process = os.getpid() if process is None else process
    try:
        status = Path(f"/proc/{process}/status").read_text()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return math.nan
    own = [int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")]
    started = [peak_memory(int(child)) for child in children]
    return sum(own) + sum(mb for mb in started if not math.isnan(mb))
