"""`lipguard check`: everything that is in the way of a bound."""

from __future__ import annotations

from omegaconf import DictConfig

import lipguard
from lipguard.app.building import build
from lipguard.app.classifier.checkpoints import load_classifier
from lipguard.app.classifier.models import Classifier


def check(cfg: DictConfig) -> None:
    """Print what is in the way for `cfg.model`, or for the network of `cfg.checkpoint` where one is given.

    Raises:
        LipguardError: there is no such checkpoint, or the model cannot be built.
    """
    model: Classifier = build(cfg.model) if cfg.checkpoint is None else load_classifier(cfg.checkpoint)
    print(lipguard.check(model, model.input_shape))
