"""From a traced graph to layers, node by node."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from torch import Tensor, fx

from lipguard.errors import InvalidNetworkError, UnsupportedLayerError
from lipguard.trusted.layers import Shape
from lipguard.trusted.network.graph import Network, Node
from lipguard.trusted.reading.builder import BATCH, Builder, Kind, Pending, Ref, Turned, Value
from lipguard.trusted.reading.checks import check_in_place
from lipguard.trusted.reading.constants import depends_on_values
from lipguard.trusted.reading.refusals import refusal
from lipguard.trusted.reading.table import TABLE
from lipguard.trusted.reading.tracer import Tracer, first_line

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
    check_in_place(graph)
    builder = builder or Builder()
    refs: _Refs = {}
    needed = _needed(graph)
    for node in graph.nodes:
        if node.op == "placeholder":
            refs[node] = builder.input(shape)
        elif node.op == "output":
            return _finish(builder, refs, node.args[0])
        elif node in needed and depends_on_values(node, refs):  # the rest are constants
            builder.path, builder.note = node.meta["path"], _note(node, refs, tracer)
            refs[node] = found = _lower_node(builder, node, refs, tracer)
            if isinstance(found, list):  # of an operation that returns several; what is read of them is checked
                continue
            expected, seen = getattr(node.meta["value"], "shape", None), _shape_of(found)
            if seen is not None and expected != seen:
                raise InvalidNetworkError(
                    f"{builder.path}: its output has the shape {expected}, where {seen} was expected."
                )
    raise InvalidNetworkError("The network has no output.")


def _needed(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that the output is made of: what is computed beside it, as the places of maxima are, is no part."""
    found, waiting = set[fx.Node](), [node for node in graph.nodes if node.op == "output"]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _shape_of(value: Value) -> Shape | None:
    """The shape of what a node made of the batch that was traced; None where it is no value yet."""
    if isinstance(value, Ref):
        return (BATCH, *value.shape)
    if isinstance(value, Turned):
        return (*value.ref.shape[: value.axis], BATCH, *value.ref.shape[value.axis :])
    return None


def _lower_node(builder: Builder, node: fx.Node, refs: _Refs, tracer: Tracer) -> Value | list[Any]:
    """What the row of an operation makes of it.

    Raises:
        UnsupportedLayerError: it has none, or is called in another way than its rule knows.
    """
    known: Callable[[fx.Node], Any] = lambda n: refs[n] if n in refs else tracer.source(n)  # noqa: E731
    args, kwargs = cast("tuple[tuple[Any, ...], dict[str, Any]]", fx.map_arg((node.args, node.kwargs), known))
    operation: Any = node.target
    if node.op == "call_module":
        operation = tracer.source(node)
        if "forward" in vars(operation):
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
    _check_pending(builder, kind, name, (args, kwargs))
    try:
        return kind.rule(builder, *args, **kwargs)
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
        module = tracer.source(node)
        own = {**module._parameters, **module._buffers}
        held = [name for name in ("weight", "bias", "running_mean", "running_var") if hasattr(module, name)]
        computed = computed or any(name not in own and isinstance(getattr(module, name), Tensor) for name in held)
    precision = str(tracer.example.dtype).removeprefix("torch.")
    return f"computed weights, with the values that {precision} gives in eval mode" if computed else ""


def _finish(builder: Builder, refs: _Refs, output: Any) -> Network:
    if not isinstance(output, fx.Node):
        raise InvalidNetworkError(
            f"Expected the network to return one tensor, but it returns a {type(output).__name__}."
        )
    if output not in refs:
        raise InvalidNetworkError("The output of the network does not depend on its input.")
    found = refs[output]
    if isinstance(found, list):
        raise InvalidNetworkError("Expected the network to return one tensor, but it returns several.")
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
