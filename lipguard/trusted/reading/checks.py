"""What a traced graph does not show: operations in place, and hooks that return something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from lipguard.errors import InvalidNetworkError


@contextmanager
def hooks_that_only_look(module: nn.Module, path: str) -> Iterator[None]:
    """Refuse forward hooks of a layer that return something: it would replace the layer's input or output."""

    def watched(hook: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = hook(*args, **kwargs)
            if result is not None:
                raise InvalidNetworkError(
                    f"{path}: a forward hook changes its input or output. Remove the hook, or make it a layer."
                )
            return result

        return call

    registers = (module._forward_hooks, module._forward_pre_hooks)
    originals = [dict(register) for register in registers]
    try:
        for register in registers:
            register.update({key: watched(hook) for key, hook in register.items()})
        yield
    finally:
        for register, original in zip(registers, originals, strict=True):
            register.update(original)


def check_in_place(graph: fx.Graph) -> None:
    """Refuse a value that is read again after an operation has changed it in place: the graph reads the old one."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    origins: dict[fx.Node, set[fx.Node]] = {}  # of every node those whose memory it shares, itself included
    for node in graph.nodes:
        origins[node] = {node}.union(*(origins[source] for source in node.meta.get("views", ())))
    for node in graph.nodes:
        for changed in node.meta.get("changed", ()):
            family = [
                other for other in graph.nodes if origins[other] & origins[changed] and node not in origins[other]
            ]
            if any(order[user] > order[node] for other in family for user in other.users):
                raise InvalidNetworkError(
                    f"{node.meta['path']}: it works in place on a value that is read again. "
                    "Use its result instead, or the operation that is not in place."
                )
