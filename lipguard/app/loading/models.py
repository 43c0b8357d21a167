"""The model that a command is about: the user's, built and with the weights of a file, or lipguard's own."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig
from torch import Tensor, nn

from lipguard.app.building import build
from lipguard.app.classifier.checkpoints import load_classifier
from lipguard.app.classifier.models import Classifier
from lipguard.app.loading.stored import Stored, stored
from lipguard.app.loading.weights import take_weights
from lipguard.errors import ConfigError, LipguardError


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model in eval mode, with the shape of a sample.

    Attributes:
        model: the module.
        input_shape: without the batch axis.
        notes: what was done to find its weights.
    """

    model: nn.Module
    input_shape: tuple[int, ...]
    notes: tuple[str, ...] = ()


def model_of(cfg: DictConfig, checkpoint: str | None) -> Loaded:
    """The model of `cfg.builder` with the weights of a checkpoint; without a builder that of the checkpoint alone.

    Notes are printed.

    Raises:
        ConfigError: the model cannot be built, the file not be read, or the shape of a sample is not known.
    """
    found = _model_of(cfg.builder, cfg.input_shape, checkpoint)
    for note in found.notes:
        print(f"note: {note}")
    return found


def network_of(cfg: DictConfig) -> Loaded:
    """The model that a verb is about that can do without weights: as `model_of`, or else that of `cfg.model`.

    Raises:
        ConfigError: as `model_of`.
    """
    if cfg.builder is not None or cfg.checkpoint is not None:
        return model_of(cfg, cfg.checkpoint)
    model: Classifier = build(cfg.model)
    return Loaded(model.eval(), model.input_shape)


def _model_of(builder: str | None, input_shape: Sequence[int] | None, checkpoint: str | None) -> Loaded:
    shape = None if input_shape is None else tuple(input_shape)
    if builder is None:
        if checkpoint is None:
            raise ConfigError("Expected model=PACKAGE.MODULE:NAME, or checkpoint=PATH, or both.")
        if str(checkpoint).endswith((".pt2", ".onnx")):
            network = stored(checkpoint).network
            assert network is not None
            return Loaded(network, _shape_of(network, shape))
        own = load_classifier(checkpoint)
        return Loaded(own, shape or own.input_shape)
    content = None if checkpoint is None else stored(checkpoint)
    model = _built(builder, content.settings if content is not None else {})
    notes = [] if content is None else _filled(model, content)
    return Loaded(model.eval(), _shape_of(model, shape), tuple(notes))


def _filled(model: nn.Module, content: Stored) -> list[str]:
    if content.network is not None:
        raise ConfigError(f"{content.path} holds a whole network. Give it without model=...")
    return take_weights(model, content.weights, content.path)


def _built(builder: str, settings: Mapping[str, Any]) -> nn.Module:
    """What the name gives: a module, or one that its function or class makes of the settings that it takes."""
    target = _named(builder)
    if isinstance(target, nn.Module):
        return target
    if not callable(target):
        raise ConfigError(
            f"model={builder}: expected a function, a class or a module, but it is a {type(target).__name__}."
        )
    own = _taken(target, settings)
    try:
        found = target(**own)
    except LipguardError:
        raise
    except Exception as error:  # whatever the user's code raises
        line = (str(error).strip().splitlines() or [""])[0]
        raise ConfigError(f"model={builder}: it cannot be built: {type(error).__name__}: {line}") from error
    if not isinstance(found, nn.Module):
        raise ConfigError(f"model={builder}: expected it to make a torch module, but it made a {type(found).__name__}.")
    return found


def _named(builder: str) -> Any:
    module, _, name = builder.partition(":")
    if not module or not name:
        raise ConfigError(f"Expected model=PACKAGE.MODULE:NAME, but got model={builder}.")
    if os.getcwd() not in sys.path:  # as `python -m` has it
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # a module that is not there, or whatever its code raises
        line = (str(error).strip().splitlines() or [""])[0]
        raise ConfigError(f"model={builder}: {module} cannot be imported: {type(error).__name__}: {line}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = ", ".join(n for n in vars(found) if not n.startswith("_"))
            raise ConfigError(f"model={builder}: {module} has no {name}. It has {near or 'nothing'}.")
        found = getattr(found, part)
    return found


def _taken(target: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a function or class has arguments for."""
    try:
        arguments = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return {}
    if any(argument.kind is argument.VAR_KEYWORD for argument in arguments):
        return dict(settings)
    return {argument.name: settings[argument.name] for argument in arguments if argument.name in settings}


def _shape_of(model: nn.Module, given: tuple[int, ...] | None) -> tuple[int, ...]:
    if given is not None:
        return given
    example, own = getattr(model, "example_input_array", None), getattr(model, "input_shape", None)
    if isinstance(own, (tuple, list)):
        return tuple(own)
    if isinstance(example, Tensor) and example.dim() > 1:
        return tuple(example.shape[1:])
    raise ConfigError("Expected input_shape=[...], the shape of one sample without the batch axis, such as [3,32,32].")
