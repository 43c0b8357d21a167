"""Constants: what of a graph is one, and how one meets a sample."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.layers import Shape
from lipguard.trusted.reading.builder import Builder, Ref
from lipguard.trusted.reading.moving import moved

_HIDDEN = -(2.0**100)
# By operation, the place of an argument of which the shape and the type count, and nothing that is in it.
_LIKE = ("expand_as", "view_as", "reshape_as")
_ONLY_SHAPE: dict[Any, int] = {
    **dict.fromkeys((torch.zeros_like, torch.ones_like, torch.full_like, "new_zeros", "new_ones", "new_full",
                     "new_tensor"), 0),
    **dict.fromkeys((*_LIKE, "type_as", "to"), 1),
}  # fmt: skip


def depends_on_values(node: fx.Node, known: Container[fx.Node]) -> bool:
    """Whether what an operation makes depends on the values of some nodes; what it takes of a shape is a constant.

    One that changes with the size of the batch shows where batches of other sizes are compared.
    """
    sources = [source for source in node.all_input_nodes if source in known]
    if node.target not in _ONLY_SHAPE:  # which no path of a layer is
        return bool(sources)
    place = _ONLY_SHAPE[node.target]
    others = [node.kwargs, *node.args[:place], *node.args[place + 1 :]]
    return any(source in known for source in _nodes_of(others))


def shape_alone(node: fx.Node) -> fx.Node | None:
    """The node of which an operation takes the shape and nothing else, beside a value that it reads."""
    other = node.args[1] if node.target in _LIKE and len(node.args) > 1 else None
    return other if isinstance(other, fx.Node) else None


def _nodes_of(values: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(values, lambda node: found.append(node) or node)  # type: ignore[func-returns-value]
    return found


def one_sample(builder: Builder, constant: Tensor) -> Tensor:
    """A constant with a batch axis, without it.

    Raises:
        InvalidNetworkError: it is not the same for all samples.
    """
    alike = len(constant) == builder.batch and bool((constant == constant[:1]).all())
    if len(constant) != 1 and not alike:
        raise InvalidNetworkError(f"{builder.path}: a constant of shape {tuple(constant.shape)} has a batch axis.")
    return constant[0]


def read(builder: Builder, value: Any) -> Tensor:
    """A number or a tensor, as the float64 tensor that it is."""
    tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    constant = builder.constant(tensor, "constant")
    assert constant is not None
    return constant


def met(builder: Builder, value: Any, shape: Shape) -> tuple[Tensor, Shape]:
    """A constant factor or summand as it meets one sample, with as many axes, and the shape of what they make."""
    constant = read(builder, value)
    if constant.dim() > len(shape):
        constant = one_sample(builder, constant)
    if constant.dim() > len(shape):
        raise builder.unsupported(
            f"a constant of shape {tuple(constant.shape)} that meets samples of shape {shape}", "Give it fewer axes."
        )
    constant = constant.reshape((*(1 for _ in range(len(shape) - constant.dim())), *constant.shape))
    return constant, tuple(np.broadcast_shapes(tuple(constant.shape), shape))


def hiding(value: Any) -> Any:
    """A constant in which what hides an entry, minus infinity, is a number that hides it, too.

    Behind it is a softmax, where e^-2^100 is far less than any rounding, or a maximum, whose slopes do not depend on
    constants. Where something else is, the network is not what the model computes, and is refused.
    """
    if isinstance(value, float):
        return _HIDDEN if value == -torch.inf else value
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.masked_fill(value == -torch.inf, _HIDDEN)


def scaled(builder: Builder, x: Ref, factor: Any) -> Ref:
    """A constant times a value."""
    if isinstance(factor, (int, float)) and factor == 1:
        return x
    constant, shape = met(builder, factor, x.shape)
    return builder.emit(layers.Scale(constant), expanded(builder, x, shape))


def shifted(builder: Builder, x: Ref, summand: Any, alpha: float = 1) -> Ref:
    """A value and a constant, which changes nothing about differences."""
    constant, shape = met(builder, hiding(summand), x.shape)
    shift = constant * alpha
    return builder.emit(layers.Scale(torch.ones_like(shift), shift), expanded(builder, x, shape))


def expanded(builder: Builder, x: Ref, shape: Shape) -> Ref:
    """A value repeated along the axes where it has one entry."""
    return x if x.shape == shape else moved(builder, x, lambda v: v.expand(len(v), *shape))


def alike(builder: Builder, *values: Ref) -> list[Ref]:
    """Values repeated along the axes where they have one entry and others have more.

    Raises:
        UnsupportedLayerError: of one the batch axis would meet another axis of the other.
    """
    shapes = [x.shape for x in values]
    if len({len(shape) for shape in shapes}) > 1:
        raise builder.unsupported(f"meeting shapes {' and '.join(map(str, shapes))}", "Give them as many axes.")
    whole = tuple(np.broadcast_shapes(*shapes))
    return [expanded(builder, x, whole) for x in values]
