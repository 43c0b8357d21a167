"""What a plan was searched for."""

from __future__ import annotations

from typing import Any

from lipguard.config import DCPConfig


def settings_of(config: DCPConfig) -> dict[str, Any]:
    """The settings that decide a plan."""
    names = (
        "partition", "solver", "merge", "proof", "failure_probability", "max_block_size", "partition_factors",
        "max_seconds", "max_memory", "max_iterations", "multipliers",
    )  # fmt: skip
    factors = config.partition_factors
    return {name: getattr(config, name) for name in names} | {"partition_factors": factors and list(factors)}
