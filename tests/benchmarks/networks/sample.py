"""A network to certify, as the studies hand it around."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Sample:
    """A network to certify.

    Attributes:
        name: in tables.
        model: in eval mode.
        input_shape: of one sample.
        later: the same network a little later in training.
        optimum: LipSDP's, where it is known.
        accuracy: on images that it was not trained on, where it was trained here.
    """

    name: str
    model: nn.Module
    input_shape: tuple[int, ...]
    later: Callable[[], nn.Module]
    optimum: float | None = None
    accuracy: float | None = None
