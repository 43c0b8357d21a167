"""Reading the checkpoints that `lipguard train` writes; nothing in them is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipguard.app.classifier.models import Classifier
from lipguard.errors import ConfigError, LipguardError

_WHAT = "a checkpoint written by `lipguard train`"


def load_classifier(path: str | Path) -> Classifier:
    """Rebuild the network of a checkpoint, in eval mode.

    Raises:
        ConfigError: there is no such file, it is no checkpoint, or it belongs to another kind of model.
    """
    checkpoint = _read(Path(path))
    settings = checkpoint.get("hyper_parameters")
    if not isinstance(settings, dict) or not {"layers", "input_shape"} <= set(settings):
        raise ConfigError(f"{path}: expected {_WHAT}, but it does not hold the architecture of a lipguard Classifier.")
    try:
        model = Classifier(**settings)
    except (LipguardError, TypeError) as error:
        raise ConfigError(f"{path}: its architecture cannot be rebuilt: {error}") from error
    _require_same_weights(path, checkpoint["state_dict"], model)
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval()


def require_same_architecture(path: str | Path, model: Classifier) -> None:
    """Check that training of `model` can resume from the checkpoint.

    Raises:
        ConfigError: the file is no checkpoint, or its weights are of another architecture.
    """
    _require_same_weights(path, _read(Path(path))["state_dict"], model)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"Expected checkpoint to be a file, but there is none at {path.absolute()}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's reader meets in a file that is none of its own
        # torch's message is left out: it advises to load the file in a way that may execute what is in it.
        raise ConfigError(f"{path}: expected {_WHAT}, but it is not one, or is damaged.") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise ConfigError(f"{path}: expected {_WHAT}, but it holds no state_dict.")
    return checkpoint


def _require_same_weights(path: str | Path, stored: dict[str, Any], model: Classifier) -> None:
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in stored.items() if isinstance(weight, Tensor)}
    for name in sorted(expected | found):
        if expected.get(name) != found.get(name):
            raise ConfigError(
                f"{path} is a checkpoint of another architecture: for {name} expected "
                f"{_shape(expected.get(name))}, but found {_shape(found.get(name))}."
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "no weight" if shape is None else f"shape {shape}"
