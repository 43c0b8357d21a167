"""From a traced graph to layers, node by node."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from torch import Tensor, fx

from lipguard.errors import InvalidNetworkError, LipguardError, UnsupportedLayerError
from lipguard.trusted.layers import Shape
from lipguard.trusted.network.graph import Network, Node
from lipguard.trusted.reading.builder import BATCH, Builder, Kind, Pending, Ref, Turned, Value
from lipguard.trusted.reading.checks import check_in_place
from lipguard.trusted.reading.constants import depends_on_values, shape_alone
from lipguard.trusted.reading.folding import Folded, refolded, unfolded
from lipguard.trusted.reading.refusals import refusal
from lipguard.trusted.reading.table import TABLE
from lipguard.trusted.reading.tracer import Tracer, first_line
from lipguard.trusted.reading.wrappers import has_own_forward

_Refs: TypeAlias = dict[fx.Node, Value | list[Any]]  # by node of the graph: what it makes


def lowered(graph: fx.Graph, tracer: Tracer, shape: Shape, builder: Builder | None = None) -> Network:
    """The network of a traced graph.

    Args:
        graph: as `tracer` has traced it.
        tracer: with the values of its nodes.
        shape: of one sample.
        builder: collects the nodes; one of the weights as they are unless another is given.

    Raises:
        UnsupportedLayerError: an operation that acts on the input has no row in the table.
        InvalidNetworkError: weights that are not finite, an operation that does not fit, no one output.
    """
    builder = builder or Builder()
    try:
        check_in_place(graph)
    except InvalidNetworkError as error:
        builder.refused(error)
    refs: _Refs = {}
    for node in _needed(graph):
        if node.op == "placeholder":
            refs[node] = builder.input(shape)
        elif node.op == "output":
            return _finish(builder, refs, node.args[0], str(tracer.root.refusal))
        elif depends_on_values(node, refs):  # the rest are constants
            builder.path, builder.line = node.meta["path"], node.meta["line"]
            builder.note = _note(node, refs, tracer)
            try:
                refs[node] = found = _lower_node(builder, node, refs, tracer)
                _check_shape(builder.path, found, node.meta["value"])
            except LipguardError as error:
                refs[node] = builder.refused(error, node)
    raise InvalidNetworkError("The network has no output.")


def _check_shape(path: str, found: Value | list[Any], value: Any) -> None:
    expected, seen = getattr(value, "shape", None), _shape_of(found)
    if seen is not None and expected != seen:
        raise InvalidNetworkError(f"{path}: its output has the shape {expected}, where {seen} was expected.")


def _shape_of(value: Value | list[Any], batch: int = BATCH) -> Shape | None:
    """The shape of what a node made of the batch that was traced; None where it is no value yet, or are several.

    What is read of several is checked.
    """
    if isinstance(value, Ref):
        return (batch, *value.shape)
    if isinstance(value, Turned):
        return (*value.ref.shape[: value.axis], batch, *value.ref.shape[value.axis :])
    return _shape_of(value.value, value.view.batch) if isinstance(value, Folded) else None


def _needed(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that the output is made of, in their order, and the input; what is only logged is left out."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in needed or node.op in ("output", "placeholder"):
            needed.update([node, *node.all_input_nodes])
    return [node for node in graph.nodes if node in needed]


def _lower_node(builder: Builder, node: fx.Node, refs: _Refs, tracer: Tracer) -> Value | list[Any]:
    """What the row of an operation makes of it.

    Raises:
        UnsupportedLayerError: it has none, or is called in another way than its rule knows.
    """
    known: Callable[[fx.Node], Any] = lambda n: refs[n] if n in refs else tracer.constant(n)  # noqa: E731
    args, kwargs = cast("tuple[tuple[Any, ...], dict[str, Any]]", fx.map_arg((node.args, node.kwargs), known))
    like = shape_alone(node)
    args = args if like is None else (args[0], tracer.value(like))
    operation: Any = node.target
    if node.op == "call_module":
        operation = tracer.operation(node)
        if has_own_forward(operation):
            raise InvalidNetworkError(
                f"{builder.path}: its forward was replaced on the instance. Make it a layer of its own."
            )
        kind, name = TABLE.module_kind(operation), f"{type(operation).__module__}.{type(operation).__qualname__}"
        if kind is not None:
            kwargs = {**kwargs, **kind.arguments(operation)}
    else:
        kind, name = TABLE.function_kind(operation), node.meta["path"].partition("(")[2].rstrip(")")
    if kind is None:
        raise refusal(builder.path, name, operation)
    view, (args, kwargs) = unfolded(builder, (args, kwargs))
    _check_pending(builder, kind, name, (args, kwargs))
    try:
        return cast("Value | list[Any]", refolded(view, kind.rule(view, *args, **kwargs)))
    except (TypeError, AttributeError) as error:  # a Ref where the rule wants a constant, or an unknown keyword
        said = first_line(error).rpartition("() ")[2]  # not by which function of ours
        raise UnsupportedLayerError(
            builder.path,
            name,
            f"It is called in a way that is not supported: {said}. Give what depends on the input first, and constants "
            "for the rest.",
        ) from error


def _check_pending(builder: Builder, kind: Kind, name: str, arguments: Any) -> None:
    """Refuse what is no value yet where the rule does not take it."""

    def check(argument: Any) -> Any:
        if isinstance(argument, Pending) and not isinstance(argument, kind.pending):
            raise UnsupportedLayerError(builder.path, f"{name} of {argument.why[0]}", argument.why[1])
        return argument

    fx.node.map_aggregate(arguments, check)


def _note(node: fx.Node, refs: _Refs, tracer: Tracer) -> str:
    """Says that weights are computed, from other tensors that the module holds: they are none of its own."""
    computed = any(
        source not in refs and source.op != "get_attr" and isinstance(tracer.value(source), Tensor)
        for source in node.all_input_nodes
    )
    if node.op == "call_module":
        module = tracer.operation(node)
        own = {**module._parameters, **module._buffers}
        held = [name for name in ("weight", "bias", "running_mean", "running_var") if hasattr(module, name)]
        computed = computed or any(name not in own and isinstance(getattr(module, name), Tensor) for name in held)
    precision = str(tracer.example.dtype).removeprefix("torch.")
    return f"computed weights, with the values that {precision} gives in eval mode" if computed else ""


def _finish(builder: Builder, refs: _Refs, output: Any, refusal: str) -> Network:
    if not isinstance(output, fx.Node):
        raise InvalidNetworkError(refusal)
    if output not in refs:
        raise InvalidNetworkError("The output of the network does not depend on its input.")
    found = refs[output]
    if isinstance(found, list):
        raise InvalidNetworkError("Expected the network to return one tensor, but it returns several.")
    if isinstance(found, Folded):
        path = output.meta["path"]
        raise InvalidNetworkError(f"{path}: the output mixes the batch axis with others. Keep the first axis as it is.")
    if isinstance(found, Pending):
        raise UnsupportedLayerError("forward", f"an output that is {found.why[0]}", found.why[1])
    return Network(_reachable(builder.nodes, found.index))


def _reachable(nodes: list[Node], output: int) -> tuple[Node, ...]:
    """The nodes that the output needs, renumbered."""
    needed = {0, output}
    for i in range(output, -1, -1):
        if i in needed:
            needed.update(nodes[i].inputs)
    index = {old: new for new, old in enumerate(sorted(needed))}
    return tuple(dataclasses.replace(nodes[i], inputs=tuple(index[j] for j in nodes[i].inputs)) for i in index)
