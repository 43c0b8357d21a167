"""Which of a file's weights are a model's: trainers and wrappers put names in front of theirs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from lipguard.errors import ConfigError

_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "ema_model.")
_DEEPEST = 3  # that stand in front of each other
_NEEDLESS = ".num_batches_tracked"  # counts that eval mode does not read
_NAMED = 3  # names that a message has at most


def take_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> list[str]:
    """Give a model the weights of a file; returns what there is to say of their names.

    Raises:
        ConfigError: weights are missing, or have other shapes.
    """
    expected = model.state_dict()
    front, inside = _prefixes(set(expected), set(weights))
    found = {
        name: weights[front + name.removeprefix(inside)] for name in expected if _is_there(name, weights, front, inside)
    }
    missing = [name for name in expected if name not in found and not name.endswith(_NEEDLESS)]
    if missing:
        raise ConfigError(
            f"{path}: {len(missing)} of {len(expected)} weights of the model are not there ({_some(missing)}); the "
            f"file has {_some(list(weights))}. Build the model that it is of."
        )
    for name, weight in found.items():
        if weight.shape != expected[name].shape:
            raise ConfigError(
                f"{path} is of another architecture: for {name} the model has shape {tuple(expected[name].shape)}, the "
                f"file {tuple(weight.shape)}."
            )
    model.load_state_dict(found, strict=False)
    used = {front + name.removeprefix(inside) for name in found}
    return [*_said(front, inside), *_left([name for name in weights if name not in used])]


def _is_there(name: str, weights: Mapping[str, Tensor], front: str, inside: str) -> bool:
    return name.startswith(inside) and front + name.removeprefix(inside) in weights


def _prefixes(expected: set[str], names: set[str]) -> tuple[str, str]:
    """(in front of the file's names, in front of the model's): the shortest with which most names are known."""
    fronts = ["".join(parts) for n in range(_DEEPEST + 1) for parts in itertools.product(_PREFIXES, repeat=n)]
    fronts = [front for front in fronts if not front or any(name.startswith(front) for name in names)]
    insides = [inside for inside in ("", *_PREFIXES) if not inside or all(e.startswith(inside) for e in expected)]
    pairs = [(front, inside) for inside in insides for front in fronts]
    return max(pairs, key=lambda pair: sum(pair[0] + e.removeprefix(pair[1]) in names for e in expected))


def _said(front: str, inside: str) -> list[str]:
    said = [f"the file's weights of {front!r} are read"] if front else []
    return said + ([f"they are those of the model's {inside.removesuffix('.')!r}"] if inside else [])


def _left(names: Sequence[str]) -> list[str]:
    return [f"{len(names)} weights of the file are not the model's ({_some(names)})"] if names else []


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return f"{shown}, ..." if len(names) > _NAMED else shown
