"""Derivatives that are no numbers per entry: of products, and of functions of whole groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lipguard.trusted.layers import Activation, Bilinear, Layer, Ranged
from lipguard.trusted.rounding import gamma_up, lengths

_COMPUTED = 2.0**-47  # of a direction's length, what the derivative of a group may be off by


@dataclass(frozen=True, eq=False)
class Turning:
    """What a layer does to directions at some points, each of shape (points, *shape), one per input."""

    layer: Layer
    points: tuple[Tensor, ...]

    @classmethod
    def of(cls, layer: Layer, inputs: tuple[Tensor, ...]) -> Turning | None:
        """At these inputs; None where there is a slope per entry, or a small matrix per group."""
        is_group = isinstance(layer, Ranged) and layer.group > 1
        return cls(layer, inputs) if is_group or isinstance(layer, Bilinear) else None

    def __call__(self, *moves: Tensor) -> Tensor:
        """The derivative in these directions, which can be differentiated in them."""
        if isinstance(self.layer, Bilinear):
            return self.layer.at(self.points, moves)
        with torch.enable_grad():  # the transpose of the transpose
            a = self.points[0].detach().requires_grad_()
            b = self.layer.forward(a)
            weights = torch.zeros_like(b, requires_grad=True)
            back = torch.autograd.grad(b, a, weights, create_graph=True)[0]
            found: Tensor = torch.autograd.grad(back, weights, moves[0], create_graph=moves[0].requires_grad)[0]
        return found

    def __getitem__(self, key: Any) -> Turning:
        """At some of the points."""
        return Turning(self.layer, tuple(point[key] for point in self.points))

    def clone(self) -> Turning:
        """With points of its own."""
        return Turning(self.layer, tuple(point.clone() for point in self.points))

    def carried(self, moves: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """(what magnitudes of directions become, what rounding loses of the first of them)."""
        if isinstance(self.layer, Bilinear):
            moved = self.layer.at(tuple(point.abs() for point in self.points), moves)
            return moved, gamma_up(2 * self.points[0].shape[-1] + 2) * moved[0]
        assert isinstance(self.layer, Activation)
        moved = lengths(moves[0]).expand_as(moves[0])  # of a group no entry is longer than all that it reads
        return moved, (gamma_up(8 * self.layer.group) + _COMPUTED) * moved[0]


def slope_at(layer: Activation, a: Tensor) -> Tensor:
    """The derivative of an element-wise function, which can be differentiated."""
    found: Tensor = torch.autograd.grad(layer.forward(a).sum(), a, create_graph=True)[0]
    return found
