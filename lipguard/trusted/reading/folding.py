"""Values whose batch axis is folded with others: (B, k, ..) as (B k, ..), so that the same acts on each of k parts.

Rules see one part, as if it were a sample. What they emit is the same map on each of the parts, of shape (k, ..).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from lipguard.trusted import layers
from lipguard.trusted.layers import Layer, Shape
from lipguard.trusted.network.graph import Node
from lipguard.trusted.reading.builder import BATCH, Builder, Pending, Ref, Value

_MOST_WEIGHTS = 2**24  # of a convolution that has its own for every part
# Of these the layer of all parts is that of one: they act on the last axes, or entry by entry.
_ITSELF = (
    layers.Linear, layers.Scale, layers.Add, layers.Product, layers.MatrixProduct, layers.Pad, layers.Activation,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Folded(Pending):
    """A value of every part, as the view of one part has it."""

    value: Value
    view: Builder
    why = ("a value whose batch axis is folded with others", "Reshape it back first, so that the batch axis is alone.")


@dataclass
class View(Builder):
    """What one of k parts sees: layers as they are for itself. The value with which it begins is an input to it."""

    whole: Builder = field(default_factory=Builder)
    parts: int = 1
    wholes: list[Ref] = field(default_factory=list)  # by node: the value of all parts, shape (k, *shape)

    @property
    def batch(self) -> int:
        """The parts of all samples of a probe batch."""
        return BATCH * self.parts

    def emit(self, layer: Layer, *inputs: Ref) -> Ref:
        """Append the same map on each of the parts."""
        return self._emitted(layer, tuple(ref.index for ref in inputs), None)

    def append(self, layer: Layer, inputs: tuple[int, ...], shape: Shape) -> Ref:
        """Append the same map on each of the parts, whose output has this shape."""
        return self._emitted(layer, inputs, shape)

    def constant(self, value: Tensor | None, what: str) -> Tensor | None:
        """A weight, as the whole network has it."""
        return self.whole.constant(value, what)

    def quotient(self, numerator: Tensor, divisor: Tensor) -> Tensor:
        """A weight that is a quotient, as the whole network has it."""
        return self.whole.quotient(numerator, divisor)

    def opened(self, whole: Ref) -> Ref:
        """One part of a value of shape (k, ..)."""
        for k, ref in enumerate(self.wholes):
            if ref.index == whole.index:
                return Ref(k, self.nodes[k].shape)
        return self._kept(layers.Input(), (), whole)

    def _emitted(self, layer: Layer, inputs: tuple[int, ...], shape: Shape | None) -> Ref:
        self.whole.note = self.note  # a rule may have changed it
        sources = [self.wholes[k] for k in inputs]
        if isinstance(layer, layers.Conv2d):
            found = self._convolved(layer, *sources)
        else:
            layer_of_all = self._of_all(layer, [self.nodes[k].shape for k in inputs])
            if shape is None:
                found = self.whole.emit(layer_of_all, *sources)
            else:
                found = self.whole.append(layer_of_all, tuple(ref.index for ref in sources), (self.parts, *shape))
        if found.shape[:1] != (self.parts,):
            raise self.unsupported("what changes the batch axis, which is folded with others", "Reshape it back first.")
        return self._kept(layer, inputs, found)

    def _kept(self, layer: Layer, inputs: tuple[int, ...], whole: Ref) -> Ref:
        self.nodes.append(Node(self.path, layer, inputs, whole.shape[1:], self.note))
        self.wholes.append(whole)
        return Ref(len(self.nodes) - 1, whole.shape[1:])

    def _of_all(self, layer: Layer, shapes: list[Shape]) -> Layer:
        """The same map on each of the parts.

        Raises:
            UnsupportedLayerError: it is not known.
        """
        if isinstance(layer, layers.Reshape):
            return layers.Reshape((self.parts, *layer.shape))
        if isinstance(layer, layers.Pick):
            first = torch.arange(self.parts).reshape(-1, *(1 for _ in layer.index.shape)) * math.prod(shapes[0])
            return layers.Pick(torch.where(layer.index < 0, -1, layer.index + first))
        if not isinstance(layer, _ITSELF) or _is_registered(layer):
            raise self.unsupported(
                f"{type(layer).__name__} of values whose batch axis is folded with others", "Reshape them back first."
            )
        return layer

    def _convolved(self, layer: layers.Conv2d, x: Ref) -> Ref:
        """All parts as one image, each with channels, and weights, of its own."""
        k = self.parts
        if k * layer.weight.numel() > _MOST_WEIGHTS:
            raise self.unsupported(
                f"a convolution of {k} images in the place of each sample, with {layer.weight.numel()} weights",
                "Reshape them back first.",
            )
        beside = self.whole.emit(layers.Reshape((k * x.shape[1], *x.shape[2:])), x)
        weight = layer.weight.repeat(k, 1, 1, 1)
        bias = None if layer.bias is None else layer.bias.repeat(k)
        of_all = layers.Conv2d(
            weight, bias, layer.stride, layer.padding, layer.dilation, k * layer.groups, layer.weight_ulps
        )
        y = self.whole.emit(of_all, beside)
        return self.whole.emit(layers.Reshape((k, len(layer.weight), *y.shape[1:])), y)


def _is_registered(layer: Layer) -> bool:
    """Whether a layer is an activation of a user's own, whose code may count axes."""
    function = layer.function if isinstance(layer, layers.Activation) else None
    held = function.keywords.values() if isinstance(function, partial) else (function,)
    return any(isinstance(value, nn.Module) for value in held)


def folded(builder: Builder, x: Ref, shape: Shape) -> Folded:
    """The entries of a value, in their order, as parts of a shape."""
    whole, ref = (builder.whole, builder.wholes[x.index]) if isinstance(builder, View) else (builder, x)
    parts = math.prod(ref.shape) // math.prod(shape)
    wanted = shape if parts == 1 else (parts, *shape)
    found = ref if wanted == ref.shape else whole.emit(layers.Reshape(wanted), ref)
    if parts == 1:
        return Folded(found, whole)
    view = whole.views.setdefault(parts, View(whole=whole, parts=parts))
    view.path, view.note = builder.path, builder.note
    assert isinstance(view, View)
    return Folded(view.opened(found), view)


def unfolded(builder: Builder, arguments: Any) -> tuple[Builder, Any]:
    """What a rule is given in the place of some arguments: the view of a part, if there is one, and what it has.

    Raises:
        UnsupportedLayerError: not all of them are values of the same parts.
    """
    values: list[Value] = []
    fx.node.map_aggregate(arguments, lambda a: values.append(a) if isinstance(a, (Ref, Pending)) else None)
    views = {id(value.view): value.view for value in values if isinstance(value, Folded)}
    if not views:
        return builder, arguments
    if len(views) > 1 or not all(isinstance(value, Folded) for value in values):
        raise builder.unsupported(
            "values of which one has its batch axis folded with others, and another one not, or with other ones",
            "Reshape them alike.",
        )
    view = next(iter(views.values()))
    view.path, view.note = builder.path, builder.note
    return view, fx.node.map_aggregate(arguments, lambda a: cast("Any", a.value if isinstance(a, Folded) else a))


def refolded(view: Builder, found: Any) -> Any:
    """What a rule made of parts, as the whole network has it."""
    if isinstance(found, list):
        return [refolded(view, part) for part in found]
    if not isinstance(found, (Ref, Pending)):
        return found
    value = found if isinstance(found, Folded) else Folded(found, view)
    return value if isinstance(value.view, View) else value.value
