"""Settings of a monitor."""

from __future__ import annotations

from collections.abc import Sequence


def is_shape(shape: object) -> bool:
    """Whether it is the shape of one input."""
    return (
        isinstance(shape, Sequence)
        and len(shape) > 0
        and all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in shape)
    )
