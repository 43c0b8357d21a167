"""The differentiable value of the vector relaxation, for a module whose weights change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from lipguard.proposing.power.iteration import Iteration, Part
from lipguard.proposing.power.options import PowerOptions
from lipguard.trusted.layers import Layer, Shape
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.builder import BATCH, Builder, Ref
from lipguard.trusted.reading.choice import PLAIN, OneFunction, Reading
from lipguard.trusted.reading.ending import logits_of
from lipguard.trusted.reading.lowering import lowered
from lipguard.trusted.reading.private import PrivateCopy
from lipguard.trusted.reading.trace import checked_shape, first_tensor, read, undisturbed
from lipguard.trusted.reading.tracer import Tracer, traced_graph
from lipguard.trusted.regions.bounded import refuse_steep


class Relaxation:
    """The value of the vector relaxation of a network whose weights change, and its gradient.

    With the vectors held fixed the value is an ordinary differentiable function of the weights, a lower bound of
    LipSDP's optimum at the fixed point. The backward pass that gives its gradient is at the same time one step of the
    fixed-point iteration, so the vectors follow the weights.

    Args:
        network: gives the network of the weights as they are, with gradients; always of one architecture.
        vectors: components of every scalar.
        warm_up: steps before the first value.
        seed: of the start.
    """

    def __init__(self, network: Callable[[], Network], vectors: int = 6, warm_up: int = 20, seed: int = 0) -> None:
        self.network, self.warm_up = network, warm_up
        self._options = PowerOptions(vectors=vectors, widening=0.0, seed=seed)
        self._iteration: Iteration | None = None

    def value(self) -> Tensor:
        """The value at the weights as they are, a scalar; its backward pass moves the vectors."""
        iteration = self._current()
        x = iteration.x.detach().requires_grad_()
        x.register_hook(iteration.turn)  # type: ignore[no-untyped-call]
        (output,) = iteration.forward(x)
        value: Tensor = torch.linalg.vector_norm(output)
        return value

    def step(self) -> float:
        """One step of the iteration, without gradients of the weights; the value before it."""
        return self._current().step(0.0)

    def _current(self) -> Iteration:
        network = self.network()
        if self._iteration is None:
            self._iteration = self._begin(network)
        self._iteration.read([Part(network)])
        return self._iteration

    def _begin(self, network: Network) -> Iteration:
        weights = [t for node in network.nodes for t in vars(node.layer).values() if isinstance(t, Tensor)]
        own = next((t for t in weights if t.requires_grad), torch.zeros(0))
        options = dataclasses.replace(self._options, dtype=own.dtype, device=own.device)
        iteration = Iteration([Part(network)], network.input_shape, options, {})
        for _ in range(self.warm_up):
            iteration.step(0.0)
        return iteration


class LiveNetwork:
    """The network with the module's own weights, as they are at every call, so that gradients reach them.

    Weights keep their precision and their place. Nothing of it may be proved: it is for penalties and estimates.

    Args:
        model: the module, in training or in eval mode; it is read in eval mode.
        input_shape: of one sample.
        reading: which function of the module.

    Raises:
        UnsupportedLayerError, InvalidNetworkError: as `trace`.
    """

    def __init__(self, model: nn.Module, input_shape: Sequence[int], reading: Reading = PLAIN) -> None:
        self.model, self.shape, self.reading = model, checked_shape(input_shape), reading
        refuse_steep(read(model, self.shape, reading))  # and for its other checks
        self._read()

    def _read(self) -> None:
        first = first_tensor(self.model)
        with undisturbed(first.device):
            copied = PrivateCopy(OneFunction(self.model, self.reading))
            example = torch.zeros(BATCH, *self.shape, dtype=first.dtype, device=first.device)
            self._tracer = Tracer(example, copied.original)
            function = copied.module.eval()
            assert isinstance(function, OneFunction)
            self._graph = traced_graph(function, self._tracer)
            plain = Builder()
            with _evaluated(self.model):
                lowered(self._graph, self._tracer, self.shape, plain)
        self._shapes = [node.shape for node in plain.nodes]
        # What is computed from weights alone has been computed while tracing.
        reads: set[fx.Node] = set()
        for node in self._graph.nodes:
            if node.op == "placeholder" or reads.intersection(node.all_input_nodes):
                reads.add(node)
        self._computed = any(node not in reads and node.op not in ("get_attr", "output") for node in self._graph.nodes)

    def __call__(self) -> Network:
        """The network of the weights as they are now."""
        if self._computed:
            self._read()
        with _evaluated(self.model):
            network = lowered(self._graph, self._tracer, self.shape, LiveBuilder(shapes=self._shapes))
            return network if self.reading.final == "probabilities" else logits_of(network)


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Put what computes weights, and what asks for its mode when it is read, into eval mode for a moment."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@dataclass
class LiveBuilder(Builder):
    """Keeps weights as they are, with their gradients; shapes are those of an earlier lowering of the same graph."""

    shapes: Sequence[Shape] = ()

    def emit(self, layer: Layer, *inputs: Ref) -> Ref:
        """Append a node, of the known shape."""
        return self.append(layer, tuple(ref.index for ref in inputs), self.shapes[len(self.nodes)])

    def constant(self, value: Tensor | None, what: str) -> Tensor | None:
        """The weight itself; of half precision as the single precision that it fits in."""
        return value.float() if value is not None and value.dtype in (torch.float16, torch.bfloat16) else value

    def quotient(self, numerator: Tensor, divisor: Tensor) -> Tensor:
        """The quotient itself."""
        return numerator / divisor
