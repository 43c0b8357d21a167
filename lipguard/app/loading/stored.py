"""What a file holds: weights, settings, or a whole network. Nothing in a file is executed."""

from __future__ import annotations

import collections
import pathlib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import omegaconf
import torch
from omegaconf import OmegaConf, base, nodes
from torch import Tensor, nn

from lipguard.app.loading.exported import of_onnx, of_program
from lipguard.app.loading.safetensors import tensors_of
from lipguard.errors import ConfigError

# Under which keys training scripts put the weights, the likeliest first.
_PLACES = ("state_dict", "model_state_dict", "model", "net", "weights", "module", "state")
# Plain values that hyper-parameters hold, of classes that do nothing but hold them.
_OMEGACONF = (
    omegaconf.DictConfig, omegaconf.ListConfig, base.ContainerMetadata, base.Metadata, base.SCMode, nodes.AnyNode,
    nodes.IntegerNode, nodes.FloatNode, nodes.StringNode, nodes.BooleanNode, nodes.PathNode, nodes.BytesNode,
)  # fmt: skip
_PLAIN = (
    typing.Any, dict, list, int, float, str, bool, set, tuple, collections.defaultdict, collections.OrderedDict,
    pathlib.Path, pathlib.PurePath, pathlib.PosixPath, pathlib.PurePosixPath, pathlib.WindowsPath,
    pathlib.PureWindowsPath, np.ndarray, np.dtype,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Stored:
    """The content of a file.

    Attributes:
        path: of it.
        weights: by name; empty where it holds a network.
        settings: hyper-parameters, as Lightning stores them, in plain values.
        network: a whole one, as exports are.
    """

    path: Path
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    network: nn.Module | None = None


def stored(path: str | Path) -> Stored:
    """Read a file by its kind: `.safetensors`, `.onnx`, `.pt2`, or what `torch.save` wrote.

    Raises:
        ConfigError: there is none, it holds no weights, or more than plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"Expected checkpoint to be a file, but there is none at {path.absolute()}.")
    kind = path.suffix.lower()
    if kind == ".safetensors":
        return Stored(path, tensors_of(path))
    if kind == ".onnx":
        return Stored(path, network=of_onnx(path))
    if kind == ".pt2":
        return Stored(path, network=of_program(path))
    content = _loaded(path)
    settings = _plain(content.get("hyper_parameters")) if isinstance(content, Mapping) else None
    return Stored(path, _weights(path, content), settings if isinstance(settings, dict) else {})


def _loaded(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([*_OMEGACONF, *_PLAIN, *_numpy()]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's reader meets; its own message advises to execute what is in the file
        seen = _refused_class(str(error))
        if seen:
            raise ConfigError(
                f"{path}: it holds an object of {seen}, and reading it might execute what is in it. Save weights and "
                "plain values only, as torch.save(model.state_dict(), PATH) does."
            ) from error
        raise ConfigError(
            f"{path}: expected weights as torch.save writes them, .safetensors, .pt2 or .onnx, but it is none of "
            "them, or is damaged."
        ) from error


def _refused_class(text: str) -> str:
    """The class that torch did not read, in its words."""
    for before in ("Unsupported global: GLOBAL ", "Unsupported class "):
        if before in text:
            return text.split(before)[1].split()[0].strip("`'\".,")
    return ""


def _numpy() -> list[Any]:
    """How numpy's arrays and numbers are written, under the names of its versions."""
    module = getattr(np, "_core", None) or np.core
    makers = [module.multiarray._reconstruct, module.multiarray.scalar]
    kinds = [type(np.dtype(name)) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")]
    named = [(maker, f"numpy.core.multiarray.{maker.__name__}") for maker in makers]
    return [*makers, *named, *kinds]


def _plain(value: Any) -> Any:
    """Settings without the containers of OmegaConf."""
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True)
    if isinstance(value, Mapping):
        return {str(key): _plain(own) for key, own in value.items()}
    return [_plain(own) for own in value] if isinstance(value, list) else value


def _weights(path: Path, content: Any) -> dict[str, Tensor]:
    places = [content] if isinstance(content, Mapping) else []
    if places:
        places = [*(content[key] for key in _PLACES if isinstance(content.get(key), Mapping)), content]
    for place in places:
        found = {str(name): value for name, value in place.items() if isinstance(value, Tensor)}
        if found:
            return found
    what = type(content).__name__ if not isinstance(content, Mapping) else f"the keys {', '.join(map(str, content))}"
    raise ConfigError(f"{path}: expected weights by name, as in a state_dict, but it holds {what}.")
