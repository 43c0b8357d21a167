"""LipSDP's matrix without writing it out: one forward and one backward pass apply it to vectors."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipguard.trusted.layers import Mosaic, Pad
from lipguard.trusted.lmi.freed import path_roundings, propagate, slope_ranges
from lipguard.trusted.lmi.underflow import backward_losses, forward_losses
from lipguard.trusted.network.cutting import part_of, picked_by, pieces_of
from lipguard.trusted.network.graph import Network
from lipguard.trusted.rounding import SMALLEST_NORMAL, add_up, mul_up

Array = NDArray[np.float64]
_ENTRIES = 2**24  # of vectors that go through the network together
_OWN_ROUNDINGS = 20  # of multipliers, slopes and scales, beside those of the layers


class ScaledForm:
    """B = D A(rho, t) D with the diagonal D of floats for which D diag(rho, 2 t) D is about the identity.

    Congruence keeps the signs of eigenvalues. Where `A` is positive semidefinite the spectrum of `B` lies in about
    [0, 2].

    Args:
        network: any graph of layers.
        t: multipliers, shape (neurons,).
        rho: the square of a Lipschitz constant, or one number per entry of the input: a diagonal form.
        device: where the passes run.
        outward: one number per entry of the output, the diagonal form of what is behind it; None for ones.
        dtype: of the passes. float32 serves for estimates; only what float64 computes is proved.

    Attributes:
        t: the multipliers.
        scale: the diagonal of D, shape (n,), in the order (x, b_1, .., b_L).
        diagonal: (rho, 2 t) scaled, shape (n,).
        roundings: relative roundings of an entry of `B @ z`, with respect to `magnitude(|z|)`, at most.
    """

    def __init__(
        self, network: Network, t: Array, rho: float | Array, device: torch.device | str = "cpu",
        outward: Array | None = None, dtype: torch.dtype = torch.float64,
    ) -> None:  # fmt: skip
        self.network = network.to(dtype, device)
        self.dtype = dtype
        self.device = torch.device(device)
        self.t, self.rho = t, rho
        n_x = network.nodes[0].size
        self.outward = np.ones(network.nodes[-1].size) if outward is None else outward
        weights = np.concatenate([np.broadcast_to(rho, n_x), 2 * t])
        with np.errstate(divide="ignore"):
            self.scale = np.where(weights > 0, 1 / np.sqrt(weights), 1.0)
        self.diagonal = self.scale * weights * self.scale
        alpha, beta = slope_ranges(network)
        none = np.zeros(n_x)  # the input has no slope
        both, product = np.append(none, t * (alpha + beta)), np.append(none, 2 * t * alpha * beta)
        self._signed = self._split(both), self._split(product)
        self._unsigned = self._split(np.abs(both)), self._split(np.abs(product))
        self._units = self._split(self.scale)
        self._own = torch.from_numpy(self.diagonal).to(self.device, dtype)
        self._outward = torch.from_numpy(self.outward.reshape(network.output_shape)).to(self.device, dtype)
        forward, backward = path_roundings(network)
        sinks = [network.nodes[i].inputs[0] for i in network.activations] + [len(network.nodes) - 1]
        collected = [forward[i] + backward[i] + _OWN_ROUNDINGS for i in sinks]
        self.roundings = max(collected)
        self._shares = [count / self.roundings for count in collected]

    @property
    def n(self) -> int:
        """Number of variables."""
        return len(self.scale)

    def __call__(self, z: Tensor) -> Tensor:
        """B z for rows z, shape (vectors, n), float64."""
        rows = max(1, _ENTRIES // self.n)  # at a time: a pass keeps some ten times as many entries
        pieces = torch.split(z.to(self.dtype), rows)
        return torch.cat([self._apply(self.network, own, *self._signed, -1.0) for own in pieces]).to(z.dtype)

    def pieces(self) -> list[ScaledForm]:
        """Forms of no common variable, of which this one is the sum, but for scales: those of the network's pieces.

        Copies b of a, with multipliers d, add 2 d (b^2 - a^2): a diagonal form at the input of the piece that reads
        them, and less of one at the output of the piece before. Of entries that are copied more than once the sum is
        rounded up, which only makes the form smaller.
        """
        network = self.network.to(torch.float64, "cpu")
        if len(pieces_of(network)) == 1:
            return [self]
        sizes = [network.nodes[i].size for i in network.activations]
        multipliers = dict(zip(network.activations, np.split(self.t, np.cumsum(sizes)[:-1]), strict=True))
        first = {nodes[0] for nodes in pieces_of(network)}
        outward = _outward(network, {i: 2 * multipliers[i] for i in first if i}, self.outward)
        found = []
        for nodes in pieces_of(network):
            own = [multipliers[i] for i in nodes[1:] if i in multipliers]
            t = np.concatenate([np.zeros(0), *own])
            inward = 2 * multipliers[nodes[0]] if nodes[0] else self.rho
            found.append(ScaledForm(part_of(network, nodes), t, inward, self.device, outward[nodes[-1]]))
        return found

    def magnitude(self, z: Tensor) -> Tensor:
        """|B| z for non-negative rows z, where |B| collects the magnitudes of all terms."""
        return self._apply(self._absolute, z, *self._unsigned, 1.0)

    def lost(self, z: Tensor) -> Tensor:
        """What gamma(`roundings`) times bounds the rounding of B z for |z| = z: |B| z, every term by its own share."""
        both, product = (
            [own * share for own, share in zip(values, [1.0, *self._shares], strict=False)] for values in self._unsigned
        )
        return self._apply(self._absolute, z, both, product, self._shares[-1])

    @cached_property
    def _absolute(self) -> Network:
        return self.network.absolute()

    @cached_property
    def underflow(self) -> float:
        """What products below the normal numbers take from an entry of B z, at most, for any z."""
        network, (both, product) = self._absolute, self._unsigned
        forward = forward_losses(network)
        last = len(network.nodes) - 1
        arriving = {last: add_up(mul_up(float(self._outward.max()), forward[last]), SMALLEST_NORMAL)}
        direct = [0.0]
        for k, i in enumerate(network.activations, start=1):
            (j,) = network.nodes[i].inputs
            twice, square = float(both[k].max()), float(product[k].max())
            own = add_up(mul_up(twice, SMALLEST_NORMAL), mul_up(square, forward[j]), 3 * SMALLEST_NORMAL)
            arriving[j] = add_up(arriving.get(j, 0.0), own)
            direct.append(add_up(mul_up(twice, forward[j]), SMALLEST_NORMAL))
        backward = backward_losses(network, arriving)
        most = add_up(max(backward[i] for i in (0, *network.activations)), max(direct))
        # Twice, for the relative errors of what is lost.
        return mul_up(2.0, add_up(mul_up(float(self.scale.max()), most), 4 * SMALLEST_NORMAL))

    def _split(self, values: Array) -> list[Tensor]:
        """By variable: the input, then every activation, each in its own shape."""
        shapes = [self.network.input_shape, *(self.network.nodes[i].shape for i in self.network.activations)]
        pieces = np.split(values, np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1])
        return [torch.from_numpy(p.reshape(s)).to(self.device, self.dtype) for p, s in zip(pieces, shapes, strict=True)]

    def _apply(self, network: Network, z: Tensor, both: list[Tensor], product: list[Tensor], sign: float) -> Tensor:
        """Half the gradient of rho |x|^2 + sign |y|^2 + sum (2 t b^2 +- 2 both a b + product a^2)."""
        with torch.backends.cudnn.flags(enabled=False):
            return self._applied(network, z, both, product, sign)  # sums, not the transforms that cuDNN may choose

    def _applied(self, network: Network, z: Tensor, both: list[Tensor], product: list[Tensor], sign: float) -> Tensor:
        sizes = [unit.numel() for unit in self._units]
        parts = [
            (part.reshape(-1, *unit.shape) * unit).requires_grad_()
            for part, unit in zip(torch.split(z, sizes, dim=1), self._units, strict=True)
        ]
        index = {i: k + 1 for k, i in enumerate(network.activations)}
        pre_activations: list[Tensor] = []

        def free(i: int, a: Tensor) -> Tensor:
            pre_activations.append(a)
            return parts[index[i]]

        with torch.enable_grad():
            y = propagate(network, parts[0], free)
            outputs = [*pre_activations, y]
        slope = 1.0 if sign > 0 else -1.0
        onward, direct = [], [torch.zeros_like(parts[0])]
        with torch.no_grad():
            for k, a in enumerate(pre_activations, start=1):
                onward.append(slope * both[k] * parts[k] + product[k] * a)
                direct.append(slope * both[k] * a)
            onward.append(sign * (self._outward * y))
        gradients = torch.autograd.grad(outputs, parts, onward, allow_unused=True)
        with torch.no_grad():
            pieces = [
                unit * (d if g is None else d + g) for unit, d, g in zip(self._units, direct, gradients, strict=True)
            ]
            coupled: Tensor = torch.cat([piece.reshape(len(piece), -1) for piece in pieces], dim=1)
            return coupled + self._own * z


def _outward(network: Network, inward: dict[int, Array], outward: Array) -> dict[int, Array]:
    """Diagonal forms at the outputs of pieces, by node, given those at their inputs and at the network's output."""
    forms = {len(network.nodes) - 1: torch.from_numpy(outward.reshape(network.output_shape))}
    for i, form in inward.items():
        source, crops = picked_by(network, i)
        d = torch.from_numpy(form.reshape(network.nodes[i].shape))
        for crop in reversed(crops):
            layer = network.nodes[crop].layer
            assert isinstance(layer, Pad)
            d = torch.nn.functional.pad(d, [-n for n in layer.padding])
        if source in forms:
            total = forms[source] + d
            above = torch.nextafter(total, torch.full_like(total, torch.inf))
            forms[source] = torch.where(d == 0, forms[source], above)
        else:
            forms[source] = d
    for i in reversed(range(len(network.nodes))):
        layer = network.nodes[i].layer
        if isinstance(layer, Mosaic) and i in forms:
            inputs = network.nodes[i].inputs
            parts = layer.apart([network.nodes[j].shape for j in inputs], forms[i])
            forms |= dict(zip(inputs, parts, strict=True))
    return {i: form.reshape(-1).numpy() for i, form in forms.items()}
