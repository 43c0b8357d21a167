"""The neurons of an activation, as the power iteration has them: what they answer, and how they learn."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lipguard.trusted.layers import Activation

_DEAD = 1e4  # the multiplier of a dead neuron, in those of the largest of its layer
# Squares of lengths outside of these leave the range of the format; then the slower, scaled norm is used.
_RANGE = {torch.float64: (1e-140, 1e140), torch.float32: (1e-17, 1e17)}


class Answer(torch.autograd.Function):
    """b from a and u; backward turns the arriving H into the new u, the multipliers, and what goes on to a."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, neurons: Neurons) -> Tensor:
        """The answers b."""
        b = neurons.answer(a)
        ctx.neurons, ctx.a, ctx.b = neurons, a.detach(), b.detach()  # with its history the output would hold itself
        return b

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """What goes on to a."""
        return ctx.neurons.learn(ctx.a, ctx.b, gradients[0]), None


class Neurons:
    """The neurons of one activation: their slopes, directions and multipliers.

    Args:
        layer: the activation.
        widening: of its slopes, as in `PowerOptions`.
        u: directions at first, shape (copies of the vectors, *shape).
        tied: whether all neurons of a channel share one multiplier.

    Attributes:
        true: the activation's slopes.
        slopes: those that answers have.
        over: axes of `u` over which one multiplier stands.
        u, last: directions, those of the next answer and the last gradient's.
        t: multipliers, in units of the value, shape of one sample.
        momentum: how much of the last change the directions take once more.
    """

    def __init__(self, layer: Activation, widening: float, u: Tensor, tied: bool) -> None:
        self.true = self.slopes = layer.alpha, layer.beta
        mean = (layer.alpha + layer.beta) / (2 * (1 - widening))
        product = layer.alpha * layer.beta / (1 - widening)
        spread = math.sqrt(max(mean * mean - product, 0.0))
        self.slopes = mean - spread, mean + spread
        self.over = tuple(i for i in range(u.dim()) if i == 0 or (tied and u.dim() > 3 and i > 1) or
                          (layer.group > 1 and i == u.dim() - 1))  # fmt: skip
        self.turn_to(u)
        self.t = torch.zeros_like(u[0])
        self.momentum = 0.0

    def turn_to(self, u: Tensor) -> None:
        """Take other directions, at rest."""
        self.u = self.last = u / self._length(u)

    def _length(self, v: Tensor) -> Tensor:
        """|v| for every multiplier, in a shape that broadcasts; the smallest normal number where it is zero."""
        square = v.square().sum(self.over, keepdim=True)
        low, high = _RANGE[v.dtype]
        if square.numel() and not low < float(square.max()) < high:
            scale = v.abs().max()
            if torch.isfinite(scale) and scale > 0:
                square = (v / scale).square().sum(self.over, keepdim=True)
                return (square.sqrt() * scale).clamp_min(torch.finfo(v.dtype).tiny)
        return square.sqrt_().clamp_min(torch.finfo(v.dtype).tiny)

    def answer(self, a: Tensor) -> Tensor:
        """The best answers to pre-activations, in the directions of today."""
        alpha, beta = self.slopes
        return (alpha + beta) / 2 * a + (beta - alpha) / 2 * self._length(a) * self.u

    def learn(self, a: Tensor, b: Tensor, H: Tensor) -> Tensor:
        """Take the directions of the gradients H of b, and the multipliers; returns the gradients of a."""
        alpha, beta = self.slopes
        length, size, tiny = self._length(H), self._length(a), torch.finfo(a.dtype).tiny
        direction = torch.where(length > tiny, H / length, self.u)
        moved = direction + self.momentum * (direction - self.last) if self.momentum else direction
        self.last = direction
        self.u = moved / self._length(moved) if self.momentum else moved
        # A neuron that nothing reaches answers nothing. A large multiplier makes sure of it, and costs nothing.
        spread = max(beta - alpha, tiny)
        t = length / (spread * size).clamp_min(tiny)
        if bool((size <= tiny).any()):
            alive = size.max() if float(size.max()) > tiny else torch.ones_like(size.max())
            t = torch.where(size > tiny, t, _DEAD * length.max() / (spread * alive))
        self.t = t.expand_as(a)[0]
        return t * ((alpha + beta) * b - 2 * alpha * beta * a)
