"""LipSDP of a whole network by a power iteration on its vector relaxation.

LipSDP's dual maximises the output of a *vector relaxation* of the network: every scalar becomes a vector of `k`
components (a batch of `k` samples; |.| is the norm over them), and a neuron may answer its pre-activation `a` with any
`b` that satisfies `<b - alpha a, beta a - b> >= 0`. The extreme answers are

    b = (alpha + beta)/2 a + (beta - alpha)/2 |a| u,    |u| = 1,

and the best direction `u` is that of the gradient `H` that arrives at `b`. One forward pass with the current input `X`
and directions, and one backward pass that replaces both, is a step of a low-rank (Burer-Monteiro) fixed point. There

    t = |H| / ((beta - alpha) |a|)

are the multipliers of the constraints, hence LipSDP's. The backward pass hands `t ((alpha + beta) b - 2 alpha beta a)`
on. Nothing here is trusted: the value converges from below, and only the multipliers are used.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipguard.network.graph import Network
from lipguard.network.layers import Activation
from lipguard.network.linearised import propagate
from lipguard.solvers.conic import Proposal

_TINY = 1e-300


@dataclass(frozen=True)
class PowerOptions:
    """How the iteration runs.

    Args:
        vectors: components `k` of every scalar.
        tolerance: relative change of the value, over ten steps, at which it stops.
        max_iterations: steps at most.
        widening: the slopes are taken a little wider, so that multipliers of an unconverged tail are feasible for the
            true ones: the interval whose quadratic is (1 - widening) b^2 - (alpha + beta) a b + alpha beta a^2.
        seed: of the start.
        max_seconds: time after which it stops where it is, or None.
    """

    vectors: int = 8
    tolerance: float = 1e-6
    max_iterations: int = 500
    widening: float = 1e-4
    seed: int = 0
    max_seconds: float | None = None


class _Answer(torch.autograd.Function):
    """b from a and u; backward turns the arriving H into the new u, the multipliers, and what goes on to a."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, neurons: _Neurons) -> Tensor:
        ctx.neurons, ctx.a = neurons, a
        return neurons.answer(a)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.neurons.learn(ctx.a, gradients[0]), None


class _Neurons:
    """The neurons of one activation: their slopes, directions and multipliers."""

    def __init__(self, layer: Activation, widening: float, u: Tensor) -> None:
        mean = (layer.alpha + layer.beta) / (2 * (1 - widening))
        product = layer.alpha * layer.beta / (1 - widening)
        spread = (mean * mean - product) ** 0.5
        self.alpha, self.beta = float(mean - spread), float(mean + spread)
        self.widening = widening
        self.u = u / _norm(u)  # (k, *shape)
        self.t = torch.zeros_like(u[0])

    def answer(self, a: Tensor) -> Tensor:
        return (self.alpha + self.beta) / 2 * a + (self.beta - self.alpha) / 2 * _norm(a) * self.u

    def learn(self, a: Tensor, H: Tensor) -> Tensor:
        length, size = _norm(H), _norm(a)
        self.u = torch.where(length > _TINY, H / length.clamp_min(_TINY), self.u)
        t = length / ((self.beta - self.alpha) * size).clamp_min(_TINY)
        t = torch.where(size > _TINY, t, torch.zeros_like(t))
        # The quadratic of the widened interval is that of the true one over (1 - widening).
        self.t = t[0] / (1 - self.widening)
        onward: Tensor = t * ((self.alpha + self.beta) * self.answer(a) - 2 * self.alpha * self.beta * a)
        return onward


def _norm(v: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(v, dim=0, keepdim=True)
    return length


def propose(
    network: Network, options: PowerOptions, state: Mapping[str, NDArray[np.float64]] | None = None
) -> Proposal:
    """Run the fixed point on the linearised network.

    Args:
        network: any graph of layers.
        options: vectors, tolerance, iterations.
        state: "x" and "u<node>" of an earlier run on the same architecture, to go on from.
    """
    generator = torch.Generator().manual_seed(options.seed)
    start = dict(state or {})

    def initial(name: str, shape: tuple[int, ...]) -> Tensor:
        known = start.get(name)
        if known is not None and known.shape == (options.vectors, *shape) and np.isfinite(known).all():
            return torch.from_numpy(known.copy())
        return torch.randn(options.vectors, *shape, generator=generator, dtype=torch.float64)

    x = initial("x", network.input_shape)
    neurons: dict[int, _Neurons] = {}
    for i in network.activations:
        layer = network.nodes[i].layer
        assert isinstance(layer, Activation)
        neurons[i] = _Neurons(layer, options.widening, initial(f"u{i}", network.nodes[i].shape))
    values: list[float] = []
    deadline = None if options.max_seconds is None else time.monotonic() + options.max_seconds
    status = "inaccurate (iterations used up)"
    with torch.enable_grad():
        while len(values) < options.max_iterations:
            if deadline is not None and time.monotonic() >= deadline:
                status = "inaccurate (no time left)" if values else "failed (no time left)"
                break
            x = (x / x.norm().clamp_min(_TINY)).requires_grad_()
            z = propagate(network, x, lambda i, a: _Answer.apply(a, neurons[i]))  # type: ignore[no-untyped-call]
            values.append(float(z.detach().norm()))
            (gradient,) = torch.autograd.grad((z * z.detach()).sum(), x)
            if not np.isfinite(values[-1]) or float(gradient.norm()) <= _TINY:
                status = "solved"  # of a network that is constant; what overflows has multipliers that show it
                break
            x = gradient.detach()
            if len(values) > 10 and abs(values[-1] - values[-11]) < options.tolerance * values[-1]:
                status = "solved"
                break
    if not values:
        return Proposal(None, float("nan"), status)
    t = np.concatenate([np.zeros(0), *(neurons[i].t.numpy().ravel() for i in network.activations)])
    if not np.isfinite(t).all():
        return Proposal(None, float("nan"), "failed (not finite)")
    final = {"x": x.detach().numpy(), **{f"u{i}": neuron.u.numpy() for i, neuron in neurons.items()}}
    return Proposal(t, values[-1], status, final, len(values))
