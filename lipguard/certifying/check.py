"""`check`: everything that is in the way of a bound, at once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lipguard.certifying.examining import PLACEHOLDER, Finding, examine, finding_of
from lipguard.certifying.hints import HINTS
from lipguard.errors import ConfigError, LipguardError
from lipguard.planning.table import table
from lipguard.trusted.layers import Activation, Shape
from lipguard.trusted.network.graph import Network, Node
from lipguard.trusted.reading.choice import Key, Reading
from lipguard.trusted.reading.trace import checked_module, checked_shape, read_plainly
from lipguard.trusted.regions.bounded import steep_parts
from lipguard.trusted.regions.region import Domain, checked_domain

_LOG = logging.getLogger(__name__)
_SHOWN = 5  # layers


@dataclass(frozen=True)
class ReadLayer:
    """A layer that could be read.

    Attributes:
        path: of the module, or of the function in forward.
        kind: of layer.
        shape: of its output, without the batch axis.
        neurons: entries of an activation, each a variable of the proof; 0 for what is affine.
        multiplications: that one sample takes.
    """

    path: str
    kind: str
    shape: Shape
    neurons: int
    multiplications: float


@dataclass(frozen=True)
class Check:
    """What `check` found; `print` it.

    Attributes:
        findings: what is in the way, in order of execution; empty if nothing is.
        layers: what could be read, in order of execution.
    """

    findings: tuple[Finding, ...]
    layers: tuple[ReadLayer, ...]

    @property
    def ok(self) -> bool:
        """Whether the model can be read: `certify` gives a bound of it."""
        return not self.findings

    @property
    def costly(self) -> tuple[ReadLayer, ...]:
        """The layers that cost most: of many multiplications, which each step takes, or neurons, which a proof does."""
        work = max((layer.multiplications for layer in self.layers), default=0.0) or 1.0
        neurons = max((layer.neurons for layer in self.layers), default=0) or 1

        def cost(layer: ReadLayer) -> float:
            return layer.multiplications / work + layer.neurons / neurons

        return tuple(sorted(filter(cost, self.layers), key=cost, reverse=True)[:_SHOWN])

    def __str__(self) -> str:
        neurons = sum(layer.neurons for layer in self.layers)
        read = f"{len(self.layers)} layers with {neurons:,} neurons can be read"
        count = len(self.findings)
        said = "nothing is" if self.ok else "one thing is" if count == 1 else f"{count} things are"
        lines = [f"{said} in the way of a bound; {read}"]
        for k, found in enumerate(self.findings, 1):
            where = f"{found.path} at {found.line}" if found.line else found.path
            lines += [f"{k}. {where}", f"   {found.reason}", f"   -> {found.remedy}"]
        rows = [
            (own.path, own.kind, str(own.shape), f"{own.neurons:,}", f"{own.multiplications:,.0f}")
            for own in self.costly
        ]
        if rows:
            lines += ["those that cost most:", *table(("layer", "kind", "shape", "neurons", "multiplications"), rows)]
        return "\n".join(lines)


def check(
    model: nn.Module, input_shape: Sequence[int], *, output: Key | None = None, input: Key | None = None,
    fixed: Mapping[Key, Any] | None = None, domain: Domain | None = None,
) -> Check:  # fmt: skip
    """Everything that is in the way of a bound of `model`, at once, without certifying anything.

    Reading goes on behind what no rule knows, with a placeholder of the shape that is seen there.

    Args:
        model: a torch module, or LightningModule; it is left as it is.
        input_shape: shape of one sample, without the batch axis.
        output, input, fixed: which function of the module, as for `certify`.
        domain: where it is to be bounded; None for all inputs.

    Returns:
        What is in the way, each with its place, its reason and the smallest change that mends it; what could be read.

    Raises:
        InvalidNetworkError: the model is no module, or `input_shape` no shape.
        ConfigError: the model has no such input or output, or `domain` is none.
    """
    checked_domain(domain)
    checked_module(model)
    shape = checked_shape(input_shape)
    reading = Reading(output, input, {} if fixed is None else fixed)
    try:
        network = read_plainly(model, shape, reading)
        return Check(tuple(_steep(network, domain)), _layers(network.nodes))
    except ConfigError:
        raise
    except LipguardError as error:
        refusal = finding_of(error)
    try:
        found = examine(model, shape, reading)
        steep = _steep(Network(tuple(found.nodes)), domain)
    except Exception:  # whatever reading on comes across: the first refusal stands
        _LOG.debug("reading on failed", exc_info=True)
        return Check((refusal,), ())
    findings = tuple(dict.fromkeys(found.findings)) or (refusal,)
    if steep:
        place = {(node.path, node.line): k for k, node in reversed(list(enumerate(found.nodes)))}
        findings = tuple(sorted([*findings, *steep], key=lambda own: place.get((own.path, own.line), len(found.nodes))))
    return Check(findings, _layers(_read_only(found.nodes)))


def _steep(network: Network, domain: Domain | None) -> list[Finding]:
    """What can be read, and has no constant: once for every line of code."""
    found = (finding_of(error, node.line) for node, error in steep_parts(network, domain, HINTS))
    return list(dict.fromkeys(found))


def _read_only(nodes: Sequence[Node]) -> list[Node]:
    return [node for node in nodes if node.note != PLACEHOLDER]


def _layers(nodes: Sequence[Node]) -> tuple[ReadLayer, ...]:
    return tuple(
        ReadLayer(
            node.path, type(node.layer).__name__, node.shape, node.size * isinstance(node.layer, Activation),
            node.layer.multiplications(node.shape),
        )
        for node in nodes[1:]
    )  # fmt: skip
