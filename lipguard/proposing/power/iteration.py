"""The power iteration: LipSDP's dual, solved by forward and backward passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipguard.proposing.power.neurons import Answer, Neurons
from lipguard.proposing.power.options import PowerOptions
from lipguard.proposing.proposal import Directions
from lipguard.trusted.layers import Activation
from lipguard.trusted.lmi.freed import propagate
from lipguard.trusted.network.graph import Network

Array = NDArray[np.float64]
_FLOOR = 1e-6  # of the input's entries, in the largest; the value loses its square


@dataclass(frozen=True, eq=False)
class Part:
    """A network that the input, or patches of it, go through.

    Attributes:
        network: with weights in the format of the passes.
        patches: entries of the input that every copy reads, shape (copies, entries of the network's input); the
            number of entries stands for a zero. None where the network reads the input itself.
    """

    network: Network
    patches: Tensor | None = None

    def read(self, x: Tensor) -> Tensor:
        """What the copies read of vectors on the input, (k, *shape): shape (k * copies, *shape of their input)."""
        if self.patches is None:
            return x
        flat = torch.nn.functional.pad(x.reshape(len(x), -1), (0, 1))
        return flat[:, self.patches].reshape(-1, *self.network.input_shape)

    @property
    def copies(self) -> int:
        """How many networks it stands for."""
        return 1 if self.patches is None else len(self.patches)


class Iteration:
    """The state of the fixed point, and one step of it.

    Args:
        parts: the networks that the input goes through.
        shape: of one input sample.
        options: vectors, widening, seed, noise, format.
        state: vectors of an earlier run, by the names of `vectors`; those that do not fit start at random.

    Attributes:
        resumed: whether all of the state was taken.
        x, last: vectors on the input, shape (vectors, *shape), and the last gradient's direction.
        scale: the last value, by which gradients are divided.
        neurons: by part and node.
    """

    def __init__(
        self, parts: Sequence[Part], shape: tuple[int, ...], options: PowerOptions, state: Mapping[str, Array]
    ):
        self.parts, self.options = parts, options
        self.generator = torch.Generator().manual_seed(options.seed)
        self.resumed = True
        vectors = min(max(options.vectors, len(state.get("x", ()))), max(options.vectors, options.most_vectors))

        def initial(name: str, size: tuple[int, ...]) -> Tensor:
            known = state.get(name)
            if known is not None and known.shape == size and np.isfinite(known).all() and known.any():
                return self._stirred(torch.from_numpy(np.array(known)).to(options.device, options.dtype))
            self.resumed = False
            return self._random(size)

        self.x = initial("x", (vectors, *shape))
        self.x = self.x / self.x.norm()
        self.last = self.x
        self.scale = 0.0
        self.neurons: dict[tuple[int, int], Neurons] = {}
        for j, part in enumerate(parts):
            for i in part.network.activations:
                node = part.network.nodes[i]
                assert isinstance(node.layer, Activation)
                u = initial(_name(j, i), (vectors * part.copies, *node.shape))
                self.neurons[j, i] = Neurons(node.layer, options.widening, u, options.tied)

    def _stirred(self, v: Tensor) -> Tensor:
        """Vectors of an earlier run with a little noise.

        Components that it had no use for have decayed to nothing, and would take as long to grow where the weights of
        today want them.
        """
        if not self.options.stir:
            return v
        stirred: Tensor = v + self.options.stir * v.norm() / math.sqrt(v.numel()) * self._random(v.shape)
        return stirred

    def _random(self, size: Sequence[int]) -> Tensor:
        values = torch.randn(tuple(size), generator=self.generator, dtype=torch.float64)
        return values.to(self.options.device, self.options.dtype)

    def read(self, parts: Sequence[Part]) -> None:
        """Go on with other weights, of parts of the same architecture."""
        self.parts = parts

    def vectors(self) -> dict[str, Tensor]:
        """On the input, "x", and the directions of every activation, "u<node>", as an earlier run leaves them."""
        return {"x": self.x} | {_name(j, i): neurons.u for (j, i), neurons in self.neurons.items()}

    def grow(self) -> None:
        """Twice as many vectors, the new ones random."""

        def more(v: Tensor) -> Tensor:
            return torch.cat([v, v.norm() / math.sqrt(v.numel()) * self._random(v.shape)])

        self.x = more(self.x)
        self.x = self.last = self.x / self.x.norm()
        for neurons in self.neurons.values():
            neurons.turn_to(more(neurons.u))

    def forward(self, x: Tensor, kept: list[tuple[Tensor, Tensor]] | None = None) -> list[Tensor]:
        """The outputs of all parts; every activation's pre-activations and answers are left in `kept`."""
        outputs = []
        for j, part in enumerate(self.parts):

            def answer(i: int, a: Tensor, j: int = j) -> Tensor:
                b: Tensor = Answer.apply(a, self.neurons[j, i])  # type: ignore[no-untyped-call]
                if kept is not None:
                    kept.append((a, b))
                return b

            outputs.append(propagate(part.network, part.read(x), answer))
        return outputs

    def step(self, momentum: float) -> float:
        """One forward and one backward pass; returns the value at the state before them."""
        for neurons in self.neurons.values():
            neurons.momentum = momentum
        with torch.enable_grad():
            x = self.x.detach().requires_grad_()
            outputs = self.forward(x)
            value = math.sqrt(sum(float(z.detach().double().square().sum()) for z in outputs))
            if not 0 < value < math.inf:
                return value
            (gradient,) = torch.autograd.grad(outputs, x, [z.detach() / value for z in outputs])
        length = gradient.norm()
        if not float(length) > 0:
            return value
        direction = gradient / length
        moved = direction + momentum * (direction - self.last)
        self.last, self.x = direction, self._alive(moved)
        self.scale = value
        return value

    def turn(self, gradient: Tensor) -> None:
        """Take the direction of a gradient for the next input, whatever its length."""
        length = float(gradient.norm())
        if 0 < length < math.inf:
            self.x = self.last = gradient / length

    @staticmethod
    def _alive(x: Tensor) -> Tensor:
        """`x` of length one, with no entry far below the largest.

        The best input leaves alone parts of a network that never meet the others; they need multipliers all the same.
        """
        size = x.square().sum(0, keepdim=True).sqrt()
        floor = _FLOOR * size.max() / size.clamp_min(torch.finfo(x.dtype).tiny)
        raised = torch.where(size > 0, x * floor.clamp_min(1.0), x)
        unit: Tensor = raised / raised.norm()
        return unit

    def value(self) -> tuple[float, Directions | None]:
        """What the end is worth for the true slopes, a lower bound of LipSDP's optimum, and the vectors there."""
        kept: list[tuple[Tensor, Tensor]] = []
        for neurons in self.neurons.values():
            neurons.slopes = neurons.true
        with torch.no_grad():
            outputs = self.forward(self.x, kept)
        value = math.sqrt(sum(float(z.double().square().sum()) for z in outputs))
        network = self.parts[0].network
        groups = [getattr(network.nodes[i].layer, "group", 1) for i in network.activations]
        if self.options.tied or max(groups, default=2) > 1 or len(self.parts) > 1 or self.parts[0].patches is not None:
            return value, None
        a, b = ([_rows(pair[k]) for pair in kept] for k in (0, 1))
        none = np.zeros((len(self.x), 0))
        return value, Directions(np.concatenate([_rows(self.x), *b], axis=1), np.concatenate([none, *a], axis=1))

    @np.errstate(over="ignore", invalid="ignore")  # what is not finite is not used
    def multipliers(self) -> list[Array]:
        """One array per part; the quadratic of the widened interval is that of the true one over (1 - widening)."""
        unit = self.scale / (1 - self.options.widening)
        return [
            np.concatenate([
                np.zeros(0),
                *(self.neurons[j, i].t.double().cpu().numpy().ravel() * unit for i in part.network.activations),
            ])
            for j, part in enumerate(self.parts)
        ]  # fmt: skip


def _rows(vectors: Tensor) -> Array:
    rows: Array = vectors.reshape(len(vectors), -1).double().cpu().numpy()
    return rows


def _name(part: int, node: int) -> str:
    return f"u{node}" if part == 0 else f"u{part}.{node}"
