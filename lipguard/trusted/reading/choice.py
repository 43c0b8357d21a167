"""Which function of a module is read: of one of its inputs, the others fixed, to one of its outputs."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lipguard.errors import ConfigError, InvalidNetworkError, shown

Key: TypeAlias = str | int  # a name, or a place
FINAL = ("logits", "probabilities")  # of a classifier: before its last softmax, or behind it
_PLACES = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_ANY_PLACE, _ANY_NAME = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def _is_key(value: object) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, (bool, torch.SymInt))


@dataclass(frozen=True, eq=False)
class Reading:
    """One function of a module.

    Args:
        output: which output, where a module returns several: its name (of a dict, a dataclass, a named tuple; with dots
            where they are nested) or its place. The only tensor among them needs none. "logits" and "probabilities",
            where they are no names of outputs, say whether a last softmax belongs to the function.
        input: which argument of `forward` is the input, by name or place; the first that is not fixed needs none. A
            name that `forward` does not have is the entry of a dict that it takes.
        fixed: the other arguments, by name or place; those with a default need none. A tensor is that of every sample:
            with a first axis of length one it is repeated for a batch. Everything else is passed on as it is.

    Raises:
        ConfigError: something else is given, or one argument is both the input and fixed.
    """

    output: Key | None = None
    input: Key | None = None
    fixed: Mapping[Key, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("output", self.output), ("input", self.input)):
            if value is not None and not _is_key(value):
                raise ConfigError(f"Expected {name} to be a name, a place or None, but got {shown(value)}.")
        given: Any = self.fixed  # of any type, until it is checked
        if not isinstance(given, Mapping) or not all(map(_is_key, given)):
            raise ConfigError(
                "Expected fixed to be a dict of arguments by name or place, such as {'t': torch.tensor(0.5)}, but got "
                f"{shown(self.fixed)}."
            )
        if self.input is not None and self.input in self.fixed:
            raise ConfigError(f"Expected fixed without the input {self.input!r}, but it has it.")

    @property
    def final(self) -> str | None:
        """Whether a last softmax belongs to the function: "logits" (not), "probabilities", or None, nothing said."""
        return self.output if isinstance(self.output, str) and self.output in FINAL else None

    @property
    def is_plain(self) -> bool:
        """Whether `forward` is called with the input alone."""
        return self.input is None and not self.fixed

    def with_batch_axes(self) -> Reading:
        """The same with a batch axis for each fixed tensor, for a `forward` that wants one."""
        fixed = {key: v[None] if isinstance(v, Tensor) and v.dim() else v for key, v in self.fixed.items()}
        return dataclasses.replace(self, fixed=fixed)


PLAIN = Reading()


class OneFunction(nn.Module):
    """Calls a module for one of its inputs, and returns one of its outputs.

    Args:
        model: the module.
        reading: which.

    Raises:
        ConfigError: `forward` has no such arguments.
        InvalidNetworkError: it needs others, too.
    """

    def __init__(self, model: nn.Module, reading: Reading = PLAIN) -> None:
        super().__init__()
        self.model, self.output = model, reading.output
        self.input: Key | None = None
        self.fixed: dict[Key, Any] = {}
        if not reading.is_plain:
            self.input, self.fixed = _bound(model, reading)
        self.batch = "" if self.input is None else _argument_of_all(model, self.input)
        self.training = model.training
        self.refusal = ""  # why there is no one output

    @property
    def hint(self) -> str:
        """What an error should say of how the module was called, if anything."""
        if not self.batch:
            return ""
        return f"Forward was given a dict with {self.input!r}, for it has no such argument, but {self.batch}."

    def forward(self, x: Tensor) -> Any:
        """The output for a batch of inputs; all of them, and a `refusal`, where there is no one."""
        value = self._outputs(x)
        found = chosen(value, self.output)
        if len(found) == 1:
            return next(iter(found.values()))
        self.refusal = _refusal("tuple" if isinstance(value, tuple) else type(value).__name__, found)
        return tuple(found.values())

    def _outputs(self, x: Tensor) -> Any:
        if self.input is None:
            return self.model(x)
        given = {key: _of_every_sample(value, x) for key, value in self.fixed.items()} | {self.input: x}
        if self.batch:
            own = _parameters(self.model)
            inside = {key: value for key, value in given.items() if key not in own}
            given = {key: value for key, value in given.items() if key in own} | {self.batch: inside}
        places = [given[key] for key in sorted(key for key in given if isinstance(key, int))]
        named = {key: value for key, value in given.items() if isinstance(key, str)}
        return self.model(*places, **named)


def _bound(model: nn.Module, reading: Reading) -> tuple[Key, dict[Key, Any]]:
    """The input and the fixed arguments, as `forward` is called with them: by name where they have one.

    Raises:
        ConfigError: `forward` has no such argument.
        InvalidNetworkError: it needs others, too.
    """
    parameters = _parameters(model)
    names = [] if _has(parameters, _ANY_PLACE) else [name for name, own in parameters.items() if own.kind in _PLACES]

    def named(key: Key) -> Key:
        return names[key] if isinstance(key, int) and 0 <= key < len(names) else key

    fixed = {named(key): value for key, value in reading.fixed.items()}
    places: Sequence[Key] = names or range(len(fixed) + 1)
    free = [place for place in places if place not in fixed]
    if reading.input is None and not free:
        raise ConfigError(f"Expected fixed to leave one of {', '.join(names)} free, but it has all of them.")
    key = named(free[0] if reading.input is None else reading.input)
    inside = bool(_argument_of_all(model, key))
    for own in (key, *fixed):
        known = _has(parameters, _ANY_PLACE) if isinstance(own, int) else own in parameters
        if not (known or inside or (isinstance(own, str) and _has(parameters, _ANY_NAME))):
            said = ", ".join(parameters) or "none"
            raise ConfigError(f"Expected input and fixed to name arguments of forward ({said}), but got {own!r}.")
    missing = [name for name in needed_arguments(model) if name not in (*fixed, key)]
    if missing and not inside and names:
        raise InvalidNetworkError(missing_arguments(missing))
    return key, fixed


def _argument_of_all(model: nn.Module, key: Key) -> str:
    """The argument of `forward` that is a dict with the input as an entry; "" where the input is an argument itself."""
    parameters, needed = _parameters(model), needed_arguments(model)
    entry = isinstance(key, str) and key not in parameters and not _has(parameters, _ANY_NAME)
    return needed[0] if entry and len(needed) == 1 else ""


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(model.forward).parameters
    except (TypeError, ValueError):  # of code that is not Python's
        return {}


def _has(parameters: Mapping[str, inspect.Parameter], kind: Any) -> bool:
    return any(own.kind is kind for own in parameters.values())


def needed_arguments(model: nn.Module) -> list[str]:
    """The arguments that `forward` has to be given, by name."""
    parameters = _parameters(model).items()
    return [name for name, own in parameters if own.kind in _PLACES and own.default is inspect.Parameter.empty]


def path_in_model(qualified: str) -> str:
    """Where a module is in the model, by its name in a `OneFunction`."""
    return qualified.removeprefix("model").removeprefix(".") or "the model itself"


def missing_arguments(names: list[str]) -> str:
    """That forward needs others than the input, in words."""
    example = ", ".join(f"{name!r}: ..." for name in names)
    return f"the model itself: forward also needs {' and '.join(names)}. Fix them: fixed={{{example}}}."


def chosen(value: Any, output: Key | None) -> dict[str, Any]:
    """The tensors that are meant among what a module returns, by name; one where the choice is clear.

    Raises:
        ConfigError: there is none of this name or place.
    """
    parts = dict(_members(value))
    if output is None or (output in FINAL and output not in parts):
        return _of_floats(dict(_tensors(value)))
    if isinstance(value, Tensor):
        raise ConfigError(f"Expected output=None for a model that returns one tensor, but got {output!r}.")
    for step in output.split(".") if isinstance(output, str) and output not in parts else [output]:
        value = _part(value, step)
    return _of_floats(dict(_tensors(value, str(output))))


def _of_floats(tensors: dict[str, Any]) -> dict[str, Any]:
    """Those of floats where there are others, too: places of maxima are no outputs of a network."""
    found = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    return found or tensors


def _refusal(kind: str, tensors: Mapping[str, Any]) -> str:
    said = f"the model itself: expected one tensor as its output, but it returns a {kind}"
    if not tensors:
        return f"{said} without any. Return the network's output."
    names = ", ".join(f"{name} of shape {tuple(tensor.shape)}" for name, tensor in tensors.items())
    first = next(iter(tensors))
    choice = f"output={int(first) if first.isdigit() else repr(first)}"
    return f"{said} of {len(tensors)}: {names} (with the batch axis). Choose one, such as {choice}."


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a container, by name; by place where they have none."""
    if isinstance(value, Mapping):
        yield from ((str(key), part) for key, part in value.items())
    elif isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", None) or range(len(value))
        yield from ((str(name), value[k]) for k, name in enumerate(names))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((own.name, getattr(value, own.name)) for own in dataclasses.fields(value))


def _part(value: Any, key: Key) -> Any:
    parts = list(_members(value))
    named = dict(parts)
    if isinstance(key, str) and key in named:
        return named[key]
    if isinstance(key, int) and -len(parts) <= key < len(parts):
        return parts[key][1]
    raise ConfigError(f"Expected output to be one of {', '.join(named) or 'one tensor'}, but got {key!r}.")


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All tensors in nested containers, by their names with dots."""
    if isinstance(value, Tensor):
        yield name, value
        return
    for key, part in _members(value):
        yield from _tensors(part, f"{name}.{key}" if name else key)


def _of_every_sample(value: Any, x: Tensor) -> Any:
    """A fixed argument for a batch, of its precision and on its device."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(x.device, x.dtype if value.is_floating_point() else value.dtype)
    return value.expand(len(x), *value.shape[1:]) if value.dim() and len(value) == 1 else value


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
