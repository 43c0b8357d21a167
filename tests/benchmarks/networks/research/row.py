"""A network to try: its name, the shape of a sample, and how it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        name: of it.
        shape: of a sample, without the batch axis.
        build: makes it, with random weights.
    """

    name: str
    shape: tuple[int, ...]
    build: Build


def of(name: str, shape: tuple[int, ...], build: Build) -> Case:
    """A row of a table."""
    return Case(name, shape, build)
