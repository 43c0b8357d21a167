"""Symbolic tracing that knows the values."""

from __future__ import annotations

import operator
import threading
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from lipguard.errors import InvalidNetworkError, LipguardError
from lipguard.trusted.reading.branches import Answers, control_flow
from lipguard.trusted.reading.checks import hooks_that_only_look
from lipguard.trusted.reading.choice import OneFunction, missing_arguments, needed_arguments, path_in_model
from lipguard.trusted.reading.frames import line_in_forward
from lipguard.trusted.reading.proxies import Value, types_of_values
from lipguard.trusted.reading.table import TABLE


def traced_graph(function: OneFunction, tracer: Tracer) -> fx.Graph:
    """The operations of one function of a module in order of execution, each with its value on the tracer's example.

    Raises:
        InvalidNetworkError: its control flow depends on data, or its code raises something.
        UnsupportedLayerError: as the module's own code raises it.
    """
    where = f"for input_shape {tuple(tracer.example.shape[1:])} (the shape of one sample, without the batch axis)"
    try:
        with types_of_values(tracer.passes):
            return tracer.trace(function)
    except LipguardError:
        raise
    except fx.proxy.TraceError as error:
        raise control_flow(tracer.path or "forward", str(error)) from error
    except Exception as error:  # whatever the user's forward raises
        missing = needed_arguments(function.model)[1:] if function.input is None else []
        if missing and isinstance(error, TypeError):
            raise InvalidNetworkError(missing_arguments(missing)) from error
        raise InvalidNetworkError(
            f"{tracer.path or 'forward'}: it cannot be traced {where}: {type(error).__name__}: {first_line(error)}"
        ) from error


# What is asked of shapes and types alone, and what has as many entries as its values say.
_WRITTEN_OUT = (nn.TransformerEncoderLayer, nn.TransformerEncoder)  # torch's own, of layers that have rows
_ASK_FOR_SHAPES = (torch.is_floating_point, torch.is_complex, torch.numel)
_RAGGED = ("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "where", "tolist")


class Tracer(fx.Tracer):
    """Symbolic tracing that also runs every operation on an example.

    Args:
        example: a batch of inputs.
        original: what a module or tensor of a private copy was copied from.
        answers: to code that asks whether a value is true.
    """

    def __init__(
        self, example: Tensor, original: Callable[[Any], Any] = lambda value: value, answers: Answers | None = None
    ) -> None:
        super().__init__()
        self.example, self.original = example, original
        self.answers = Answers() if answers is None else answers
        self.path = ""
        self._running = False
        self._names: dict[int, str] = {}  # of the root's parameters, by id: they are read often
        self._thread = threading.get_ident()

    def passes(self) -> bool:
        """Whether a call is none of the network's: of an operation that runs on the example, or of another thread."""
        return self._running or threading.get_ident() != self._thread

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one operation: it has a row, or is one of torch's."""
        if TABLE.module_kind(m) is not None:
            return True
        return not isinstance(m, _WRITTEN_OUT) and super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace the call of a module, and know meanwhile where it is."""
        if self.passes():
            return forward(*args, **kwargs)
        before, self.path = self.path, path_in_model(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.path = before
        return result

    def path_of_module(self, mod: nn.Module) -> str:
        """Where a module is; one that is none of the model's, as a slice of a Sequential, is entered beside them."""
        try:
            return super().path_of_module(mod)
        except NameError:
            name = f"made in forward {sum(1 for _ in self.root.children())}"
            self.root.add_module(name, mod)
            for own, module in mod.named_modules(prefix=name):
                (self.submodule_paths or {}).setdefault(module, own)
            return name

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """An attribute of a module, as the tensor that it is while an operation runs on the example."""
        if self.passes():
            return attr_val
        if not self._names:
            self._names = {id(own): name for name, own in self.root.named_parameters()}
        name = self._names.get(id(attr_val)) if isinstance(attr_val, nn.Parameter) else None
        if name is None:
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for a node's value in the module's code."""
        return Value(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """The answer to code that asks whether a value is true: the example's, or the other one."""
        own = bool(obj.node.meta["value"])
        return self.answers.to(self.path or "forward", own) if obj.node.meta.get("varies") else own

    def number(self, node: fx.Node) -> Any:
        """What code is given that makes a number of Python of a value.

        Raises:
            TraceError: it depends on the input, and code may compute whatever it likes from it.
        """
        if node.meta.get("varies"):
            raise fx.proxy.TraceError("a value is used as a number of Python")
        return node.meta["value"]

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> Any:
        """Record an operation, and run it on the example.

        Raises:
            InvalidNetworkError: it cannot be applied to its input.
        """
        if target in _ASK_FOR_SHAPES and type(args[0]) is Value:
            return target(args[0].node.meta["value"])
        if kind == "call_function" and _is_plain(target):
            return target(*args, **kwargs)
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        node = proxy.node
        node.meta["path"], node.meta["line"] = _node_path(node, self.path), line_in_forward()
        node.meta["varies"] = kind == "placeholder" or any(own.meta.get("varies") for own in node.all_input_nodes)
        node.meta["ragged"] = node.meta["varies"] and _is_ragged(node)
        if kind == "output":
            return proxy
        self._running = True
        try:
            node.meta["value"] = self._run(node)
        except LipguardError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise InvalidNetworkError(
                f"{node.meta['path']}: cannot be applied to its input, for input_shape {tuple(self.example.shape[1:])} "
                f"(the shape of one sample, without the batch axis): {first_line(error)}"
            ) from error
        finally:
            self._running = False
        return proxy

    def value(self, node: fx.Node) -> Any:
        """What a node gave on the example, or the tensor that it names."""
        return node.meta["value"] if "value" in node.meta else self._attribute(str(node.target))

    def constant(self, node: fx.Node) -> Any:
        """The module's own tensor that a node names; what else a node gave."""
        return self.original(self.value(node))

    def operation(self, node: fx.Node) -> Any:
        """The submodule that a node calls, the module's own."""
        return self.original(self._attribute(str(node.target)))

    def _attribute(self, path: str) -> Any:
        value: Any = self.root
        for name in path.split("."):
            value = getattr(value, name)
        return value

    def _run(self, node: fx.Node) -> Any:
        # Tensors are copied, for an operation in place must not reach the value that others read. It is noted instead.
        copies = {source: _copied(self.value(source)) for source in node.all_input_nodes}
        result = self._call(node, *fx.map_arg((node.args, node.kwargs), copies.__getitem__))
        tensors = {source: copy for source, copy in copies.items() if isinstance(copy, Tensor)}
        node.meta["changed"] = [source for source, copy in tensors.items() if copy._version > 0]
        node.meta["views"] = [source for source, copy in tensors.items() if _share_memory(result, copy)]
        return result

    def _call(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        match node.op:
            case "placeholder":
                return self.example
            case "get_attr":
                return self._attribute(str(node.target))
            case "call_module":
                module = self.root.get_submodule(str(node.target))
                with hooks_that_only_look(module, node.meta["path"]):
                    return module(*args, **kwargs)
            case "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            case _ if node.target is operator.setitem:  # its value is what it changes
                operator.setitem(*args)
                return args[0]
            case _:
                assert callable(node.target)
                return node.target(*args, **kwargs)


def _is_ragged(node: fx.Node) -> bool:
    """Whether the shape of a node's value depends on values."""
    name = getattr(node.target, "__name__", node.target)
    if name == "where" and len(node.args) + len(node.kwargs) > 1:
        return False
    by_mask = name == "getitem" and any(
        isinstance(key, fx.Node) for key in (node.args[1] if isinstance(node.args[1], tuple) else node.args[1:])
    )
    return by_mask or name in _RAGGED or any(source.meta.get("ragged") for source in node.all_input_nodes)


def _is_plain(target: Any) -> bool:
    """Whether a function is Python of another library that torch.fx is told not to look into: its code is traced."""
    home = getattr(target, "__module__", None) or ""
    own = isinstance(target, types.FunctionType) and home.partition(".")[0] != "torch"
    return own and TABLE.function_kind(target) is None


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _share_memory(one: Any, other: Tensor) -> bool:
    return isinstance(one, Tensor) and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _node_path(node: fx.Node, inside: str) -> str:
    """Where a node is, in words that a user can find in their code."""
    if node.op == "call_module":
        return path_in_model(str(node.target))
    name = getattr(node.target, "__name__", str(node.target))
    inside = "forward" if inside in ("", "the model itself") else inside
    return f"{inside} ({'method' if node.op == 'call_method' else 'function'} {name})"
