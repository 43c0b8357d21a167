"""`lipguard plan`: what a certification would solve."""

from __future__ import annotations

from omegaconf import DictConfig

import lipguard
from lipguard.app.building import build, dcp_config
from lipguard.app.classifier.checkpoints import load_classifier
from lipguard.app.classifier.models import Classifier
from lipguard.figures.plan import plot_plan


def plan(cfg: DictConfig) -> None:
    """Print the plan for `cfg.model`, or for the network of `cfg.checkpoint` where one is given.

    Raises:
        LipguardError: the network cannot be read or planned for.
    """
    config = dcp_config(cfg.lipschitz)
    model: Classifier = build(cfg.model) if cfg.checkpoint is None else load_classifier(cfg.checkpoint)
    found = lipguard.plan(model.eval(), model.input_shape, config)
    print(found)
    if cfg.plot is not None:
        plot_plan(found, model, model.input_shape, cfg.plot)
        print(f"Figure: {cfg.plot}")
