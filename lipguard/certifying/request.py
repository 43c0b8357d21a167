"""What is to be certified, a value that travels to another process."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType

import torch
from torch import Tensor, nn

from lipguard.certifying.warm_start import WarmStart
from lipguard.config import DCPConfig
from lipguard.errors import expect
from lipguard.trusted.network.graph import Network
from lipguard.trusted.regions.region import Domain


@dataclass(frozen=True, eq=False)
class Request:
    """What is to be certified, in values that travel to another process."""

    network: Network
    config: DCPConfig
    warm: WarmStart | None = None
    data: Tensor | None = None
    optimise: bool = True
    device: torch.device | str = "cpu"
    domain: Domain | None = None
    sought: bool = True  # whether a lower bound is looked for


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are: the power iteration runs there, if it can do so in double precision."""
    found = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    return torch.device("cpu") if found.type == "mps" else found


def checked_config(config: DCPConfig | None) -> DCPConfig:
    """The settings, by default `DCPConfig()`.

    Raises:
        ConfigError: it is something else.
    """
    expect("config", config, (DCPConfig, NoneType), "a DCPConfig or None")
    return config or DCPConfig()
