"""What the rules of the table are given, and what a row holds.

A rule has the signature of the functional form; a module's row says how to call it. A rule receives a `Ref` for every
argument that depends on the network's input, and plain values or constant tensors for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from lipguard.errors import InvalidNetworkError, LipguardError, UnsupportedLayerError
from lipguard.trusted import layers
from lipguard.trusted.layers import Layer, Shape
from lipguard.trusted.network.graph import Node

_LEAST_QUOTIENT = 2.0**-1000  # far above the smallest normal number
# Probe batches have this size: an operation that mixes the batch axis with others shows by its shape.
BATCH = 3


@dataclass(frozen=True)
class Ref:
    """A value that depends on the network's input: the node that makes it, and its shape without the batch axis."""

    index: int
    shape: Shape


class Pending:
    """What is no value of the network yet: only rules that say so read it. `why` tells others what is in the way."""

    why: tuple[str, str]  # what it is, and what to do about it


@dataclass(frozen=True)
class Turned(Pending):
    """A value whose batch axis is not the first one: what moves entries turns it back, or takes a part of it."""

    ref: Ref
    axis: int  # of the batch
    why = ("a value whose batch axis is not the first", "Keep the first axis as it is.")


@dataclass(frozen=True)
class Padded(Pending):
    """A value between entries of -inf, which are none of its maxima."""

    ref: Ref
    padding: tuple[int, ...]  # of the last axes, in the order of `torch.nn.functional.pad`; none negative
    why = ("a value that is padded with -inf", "Give it to max pooling only.")


@dataclass
class Builder:
    """Collects nodes; rules call `emit`."""

    nodes: list[Node] = field(default_factory=list)
    path: str = "input"
    note: str = ""  # on what is emitted
    line: str = ""  # of the model's code
    private: frozenset[int] = frozenset()  # ids of tensors that become the network's own; others are copied
    numbers: dict[bool, dict[int, int]] = field(default_factory=dict)  # of nodes, by value: see `values.same`
    values: dict[Hashable, int] = field(default_factory=dict)  # what has which number
    compared: dict[tuple[Hashable, bool], Ref] = field(default_factory=dict)  # what comparisons made: see `maxima`
    kinks: dict[Hashable, Any] = field(
        default_factory=dict
    )  # neurons of `lines`, by what they read and where they bend
    exchanges: dict[Hashable, tuple[Ref, Tensor, Tensor]] = field(default_factory=dict)
    views: dict[int, Builder] = field(default_factory=dict)  # of one of so many parts: see `folding`

    @property
    def batch(self) -> int:
        """How many samples a probe batch has."""
        return BATCH

    def emit(self, layer: Layer, *inputs: Ref) -> Ref:
        """Append a node and return a reference to its value."""
        shape = tuple(layer.forward(*(torch.zeros(1, *ref.shape, dtype=torch.float64) for ref in inputs)).shape[1:])
        return self.append(layer, tuple(ref.index for ref in inputs), shape)

    def input(self, shape: Shape) -> Ref:
        """Append the input node."""
        return self.append(layers.Input(), (), shape)

    def append(self, layer: Layer, inputs: tuple[int, ...], shape: Shape) -> Ref:
        """Append a node whose output has this shape.

        Raises:
            InvalidNetworkError: it holds no entries.
        """
        if 0 in shape:
            raise InvalidNetworkError(f"{self.path}: its output has the shape {shape}, which holds no entries.")
        self.nodes.append(Node(self.path, layer, inputs, shape, self.note, self.line))
        return Ref(len(self.nodes) - 1, shape)

    def refused(self, error: LipguardError, node: fx.Node | None = None) -> Any:
        """What stands for an operation that cannot be read, in the graph: nothing does.

        Raises:
            LipguardError: the error, always.
        """
        raise error

    def unsupported(self, kind: str, advice: str) -> UnsupportedLayerError:
        """The error to raise for the operation in hand."""
        return UnsupportedLayerError(self.path, kind, advice)

    def constant(self, value: Tensor | None, what: str) -> Tensor | None:
        """A weight as the float64 value that it holds.

        Raises:
            InvalidNetworkError: it is not finite.
        """
        if value is None:
            return None
        if not isinstance(value, Tensor) or value.is_complex():
            raise self.unsupported(
                f"a {what} {_seen(value)}",
                "Only real constant weights can be read. Use parameters, buffers and numbers.",
            )
        own = id(value) in self.private
        value = value.detach().to("cpu", torch.float64)
        value = value if own else value.clone()
        if not value.sum().isfinite() and not torch.isfinite(value).all():  # a sum takes no copy
            bad = int((~torch.isfinite(value)).sum())
            raise InvalidNetworkError(
                f"{self.path}: {bad} of {value.numel()} entries of its {what} are NaN or infinite."
            )
        return value

    def quotient(self, numerator: Tensor, divisor: Tensor) -> Tensor:
        """A weight that is a quotient, with one rounding.

        Raises:
            InvalidNetworkError: it is so large or so small that its rounding would not be a relative one.
        """
        found = numerator / divisor
        lost = ~torch.isfinite(found) | (found.abs() < _LEAST_QUOTIENT) & (numerator != 0)
        if lost.any():
            raise InvalidNetworkError(
                f"{self.path}: {int(lost.sum())} of {lost.numel()} of its factors are quotients beyond what double "
                "precision can hold. Rescale its weights."
            )
        return found


def _seen(value: object) -> str:
    return "that depends on the input" if isinstance(value, Ref) else f"of type {type(value).__name__}"


Value = Ref | Pending
Rule = Callable[..., Value | list[Any]]  # several values for an operation that returns a tuple


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Attributes:
        rule: lowers the operation; called as rule(builder, *args, **kwargs).
        module: the module class, if there is one; a subclass counts only while it inherits `forward`.
        arguments: the keyword arguments that a module calls the rule with, besides its input.
        functions: functions and tensor methods of the same meaning (methods by name).
        pending: the classes of pending values that the rule takes.
    """

    rule: Rule
    module: type[nn.Module] | None = None
    arguments: Callable[[Any], Mapping[str, Any]] = lambda module: {}
    functions: tuple[Callable[..., Any] | str, ...] = ()
    pending: tuple[type[Pending], ...] = ()


def attributes(*names: str) -> Callable[[nn.Module], Mapping[str, Any]]:
    """The arguments of a rule that a module holds under the same names."""
    return lambda module: {name: getattr(module, name) for name in names}


def several(value: Any, count: int) -> tuple[int, ...]:
    """A size for each of `count` axes, where one may be given for all."""
    return (int(value),) * count if isinstance(value, int) else tuple(int(v) for v in value)
