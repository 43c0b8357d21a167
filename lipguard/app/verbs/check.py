"""`lipguard check`: everything that is in the way of a bound."""

from __future__ import annotations

from omegaconf import DictConfig

import lipguard
from lipguard.app.building import box
from lipguard.app.loading.models import network_of


def check(cfg: DictConfig) -> None:
    """Print what is in the way for `cfg.model`, or for the network of `cfg.checkpoint` where one is given.

    Raises:
        LipguardError: there is no such checkpoint, or the model cannot be built.
    """
    own = network_of(cfg)
    print(lipguard.check(own.model, own.input_shape, domain=box(cfg.domain)))
