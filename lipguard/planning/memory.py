"""How much memory a proof may take."""

from __future__ import annotations

import os

from lipguard.config import DCPConfig

_SHARE_OF_MEMORY = 0.5


def usable_memory(config: DCPConfig) -> float:
    """Bytes that a proof may take."""
    return config.max_memory or _SHARE_OF_MEMORY * free_memory()


def free_memory() -> float:
    """Bytes that this machine has free; 4 GB where it does not say."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        return float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return 4e9
