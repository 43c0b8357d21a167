"""A module whose forward is a function given by the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Forward(nn.Module):
    """`Forward(f, a=..., b=...)` calls f(self, x); modules and parameters given by name are its attributes."""

    def __init__(self, function: Callable[[Any, Any], Any], **attributes: Any) -> None:
        super().__init__()
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)
