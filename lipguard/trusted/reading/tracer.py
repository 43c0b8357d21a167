"""Symbolic tracing that knows the values."""

from __future__ import annotations

import operator
import threading
import types
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from lipguard.errors import InvalidNetworkError, LipguardError
from lipguard.trusted.reading.checks import hooks_that_only_look
from lipguard.trusted.reading.table import TABLE


def traced_graph(model: nn.Module, tracer: Tracer) -> fx.Graph:
    """The operations of a module in order of execution, each with its value on the tracer's example.

    Raises:
        InvalidNetworkError: its control flow depends on data, or its code raises something.
        UnsupportedLayerError: as the module's own code raises it.
    """
    try:
        return tracer.trace(_OneInput(model))
    except LipguardError:
        raise
    except fx.proxy.TraceError as error:
        raise InvalidNetworkError(
            f"{tracer.path or 'forward'}: its control flow depends on data ({error}). "
            "A network with branches on values is not one composition of layers."
        ) from error
    except Exception as error:  # whatever the user's forward raises
        raise InvalidNetworkError(
            f"{tracer.path or 'forward'}: it cannot be traced for input_shape {tuple(tracer.example.shape[1:])} "
            f"(the shape of one sample, without the batch axis): {type(error).__name__}: {first_line(error)}"
        ) from error


class _OneInput(nn.Module):
    """Calls the model with one tensor, so that the model itself is a module like any other."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x)


class _Value(fx.Proxy):
    """A proxy that knows its shape, so that code which asks for it is traced as any other."""

    @property
    def _example(self) -> Any:
        return self.node.meta["value"]

    @property
    def shape(self) -> torch.Size:
        return self._example.shape  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        return self._example.ndim  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        return self._example.dtype  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        return self._example.device  # type: ignore[no-any-return]

    def size(self, dim: int | None = None) -> Any:
        return self._example.size() if dim is None else self._example.size(dim)

    def dim(self) -> int:
        return self._example.dim()  # type: ignore[no-any-return]

    def numel(self) -> int:
        return self._example.numel()  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self._example)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Put something in its place: from here on this stands for another value."""
        self.node = self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {}).node

    def __iter__(self) -> Any:
        return iter([operator.getitem(cast("Any", self), k) for k in range(len(self._example))])

    def __int__(self) -> int:
        raise fx.proxy.TraceError("a value is used as a number of Python")

    __float__ = __index__ = __int__


class Tracer(fx.Tracer):
    """Symbolic tracing that also runs every operation on an example."""

    def __init__(self, example: Tensor, original: Callable[[Any], Any] = lambda value: value) -> None:
        super().__init__()
        self.example, self.original = example, original
        self.path = ""
        self._running = False
        self._thread = threading.get_ident()

    def _passes(self) -> bool:
        """Whether a call is none of the network's: of an operation that runs on the example, or of another thread."""
        return self._running or threading.get_ident() != self._thread

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one operation: it has a row, or is one of torch's."""
        return TABLE.module_kind(m) is not None or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace the call of a module, and know meanwhile where it is."""
        if self._passes():
            return forward(*args, **kwargs)
        before, self.path = self.path, _module_path(self.path_of_module(m))
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
        return attr_val if self._passes() else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for a node's value in the module's code."""
        return _Value(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> Any:
        """Record an operation, and run it on the example.

        Raises:
            InvalidNetworkError: it cannot be applied to its input.
        """
        if kind == "call_function" and _is_plain(target):
            return target(*args, **kwargs)
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        node = proxy.node
        node.meta["path"] = _node_path(node, self.path)
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

    def source(self, node: fx.Node) -> Any:
        """The module's own tensor, or submodule, that a node names; what else a node gave."""
        return self.original(self._attribute(str(node.target)) if node.op == "call_module" else self.value(node))

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


def _module_path(qualified: str) -> str:
    return qualified.removeprefix("model").removeprefix(".") or "the model itself"


def _node_path(node: fx.Node, inside: str) -> str:
    """Where a node is, in words that a user can find in their code."""
    if node.op == "call_module":
        return _module_path(str(node.target))
    name = getattr(node.target, "__name__", str(node.target))
    inside = "forward" if inside in ("", "the model itself") else inside
    return f"{inside} ({'method' if node.op == 'call_method' else 'function'} {name})"
