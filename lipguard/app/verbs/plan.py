"""`lipguard plan`: what a certification would solve."""

from __future__ import annotations

from omegaconf import DictConfig

import lipguard
from lipguard.app.building import box, dcp_config
from lipguard.app.loading.models import network_of
from lipguard.figures.plan import plot_plan


def plan(cfg: DictConfig) -> None:
    """Print the plan for `cfg.model`, or for the network of `cfg.checkpoint` where one is given.

    Raises:
        LipguardError: the network cannot be read or planned for.
    """
    config = dcp_config(cfg.lipschitz)
    own = network_of(cfg)
    found = lipguard.plan(own.model, own.input_shape, config, domain=box(cfg.domain))
    print(found)
    if cfg.plot is not None:
        plot_plan(found, own.model, own.input_shape, cfg.plot)
        print(f"Figure: {cfg.plot}")
