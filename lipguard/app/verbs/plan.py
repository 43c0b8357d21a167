"""`lipguard plan`: what a certification would solve."""

from __future__ import annotations

from omegaconf import DictConfig

import lipguard
from lipguard.app.building import build, dcp_config
from lipguard.app.classifier.models import Classifier
from lipguard.app.loading.models import Loaded, model_of
from lipguard.figures.plan import plot_plan


def plan(cfg: DictConfig) -> None:
    """Print the plan for `cfg.model`, or for the network of `cfg.checkpoint` where one is given.

    Raises:
        LipguardError: the network cannot be read or planned for.
    """
    config = dcp_config(cfg.lipschitz)
    own = _network(cfg)
    found = lipguard.plan(own.model, own.input_shape, config)
    print(found)
    if cfg.plot is not None:
        plot_plan(found, own.model, own.input_shape, cfg.plot)
        print(f"Figure: {cfg.plot}")


def _network(cfg: DictConfig) -> Loaded:
    if cfg.builder is not None or cfg.checkpoint is not None:
        return model_of(cfg, cfg.checkpoint)
    model: Classifier = build(cfg.model)
    return Loaded(model.eval(), model.input_shape)
