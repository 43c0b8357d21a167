"""From a torch module to a `Network`, in order of execution."""

from __future__ import annotations

import dataclasses
import math
import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from lipguard.errors import InvalidNetworkError, LipguardError, UnsupportedLayerError
from lipguard.trusted.layers import Shape
from lipguard.trusted.network.graph import Network, Node
from lipguard.trusted.reading.faithful import check_against_model, normal_batch
from lipguard.trusted.reading.lowering import (
    BATCH,
    Builder,
    LiveBuilder,
    Ref,
    function_kind,
    module_kind,
    reason_against,
    supported,
)
from lipguard.trusted.reading.private import PrivateCopy, in_eval_mode, random_states_kept
from lipguard.trusted.rounding import subnormal_numbers

_MOST_ENTRIES = 2**27  # of a sample; a certificate file may name any shape
_Refs: TypeAlias = dict[fx.Node, Ref | list[Ref]]  # by node of the graph: what it makes


def trace(model: nn.Module, input_shape: Sequence[int]) -> Network:
    """Read `model` as a function of one tensor of shape (batch, *input_shape), in the mode that it is in.

    It is read in a private copy, in double precision where it runs there. The graph is the order of execution. Every
    operation is run once on a random batch, so that shapes are known while tracing, and the finished network is
    compared with the model on others.

    Raises:
        UnsupportedLayerError: an operation that acts on the input has no row in the table.
        InvalidNetworkError: weights that are not finite, behaviour of training mode, control flow that depends on
            data, state that the model changes when it is called, an input shape that does not fit, an output that is
            not one tensor.
    """
    shape = _checked_shape(input_shape)
    if not isinstance(model, nn.Module):
        raise InvalidNetworkError(f"Expected a torch.nn.Module, but got {type(model).__name__}.")
    first = _first_tensor(model)
    double = first.dtype == torch.float64 and first.device.type == "cpu"
    with _reading(first.device):
        model = PrivateCopy(model).module  # all others are made of it: the model may be in training on another thread
        try:
            return _read(model, shape, torch.zeros(0, dtype=torch.float64))
        except InvalidNetworkError:
            if double:
                raise
        return _read(model, shape, first)  # of a precision and on a device that its code insists on


def _read(model: nn.Module, shape: Shape, like: Tensor) -> Network:
    """The network of the model, run in the precision and on the device of a tensor."""
    dtype = torch.float64 if like.dtype == torch.float64 else None
    device = like.device if dtype is not None else None
    tracer = _Tracer(normal_batch(BATCH, shape).to(like.device, like.dtype))
    network = _lower(_graph(PrivateCopy(model, dtype, device).module, tracer), tracer, shape)
    check_against_model(network, PrivateCopy(model, dtype, device).module, like)
    return network


def _first_tensor(model: nn.Module) -> Tensor:
    """The first tensor of floats that the model holds; every one of them holds numbers.

    Raises:
        InvalidNetworkError: one does not.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in tensors.items():
        if is_lazy(tensor) or tensor.is_meta:
            raise InvalidNetworkError(
                f"{name}: it holds no numbers yet. Run a batch through the model, or load its weights."
            )
    return next((t for t in tensors.values() if t.is_floating_point()), torch.zeros(0, dtype=torch.float64))


_ONE_AT_A_TIME = threading.RLock()  # torch.fx patches torch.nn.Module while it traces


@contextmanager
def _reading(device: torch.device) -> Iterator[None]:
    """Run a module's code with nothing recorded, and give all random states back."""
    with (
        _ONE_AT_A_TIME, random_states_kept(device), subnormal_numbers(), torch.inference_mode(False), torch.no_grad(),
        torch.autocast("cpu", enabled=False), torch.autocast(device.type, enabled=False),
    ):  # fmt: skip
        yield


class LiveNetwork:
    """The network with the module's own weights, as they are at every call, so that gradients reach them.

    Weights keep their precision and their place. Nothing of it may be proved: it is for penalties and estimates.

    Args:
        model: the module, in training or in eval mode; it is read in eval mode.
        input_shape: of one sample.

    Raises:
        UnsupportedLayerError, InvalidNetworkError: as `trace`.
    """

    def __init__(self, model: nn.Module, input_shape: Sequence[int]) -> None:
        self.model, self.shape = model, _checked_shape(input_shape)
        trace(in_eval_mode(model), self.shape)  # for its checks
        self._read()

    def _read(self) -> None:
        first = _first_tensor(self.model)
        with _reading(first.device):
            copied = PrivateCopy(self.model)
            example = torch.zeros(BATCH, *self.shape, dtype=first.dtype, device=first.device)
            self._tracer = _Tracer(example, copied.original)
            self._graph = _graph(copied.module.eval(), self._tracer)
            plain = Builder()
            with _evaluated(self.model):
                _lower(self._graph, self._tracer, self.shape, plain)
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
            return _lower(self._graph, self._tracer, self.shape, LiveBuilder(shapes=self._shapes))


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


def _graph(model: nn.Module, tracer: _Tracer) -> fx.Graph:
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
            f"(the shape of one sample, without the batch axis): {type(error).__name__}: {_first_line(error)}"
        ) from error


def _checked_shape(input_shape: Sequence[int]) -> Shape:
    try:
        shape = tuple(input_shape)
    except TypeError as error:
        raise InvalidNetworkError(
            f"Expected input_shape as a tuple such as (1, 28, 28), but got {input_shape!r}."
        ) from error
    if not shape or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape):
        raise InvalidNetworkError(
            "Expected input_shape to hold positive integers, the shape of one sample without the batch axis, "
            f"but got {shape}."
        )
    if math.prod(shape) > _MOST_ENTRIES:
        raise InvalidNetworkError(
            f"Expected input_shape to have at most {_MOST_ENTRIES} entries, but {shape} has {math.prod(shape)}."
        )
    return shape


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

    def __iter__(self) -> Any:
        if isinstance(self._example, (tuple, list)):  # of an operation that returns several tensors
            return iter([operator.getitem(cast("Any", self), k) for k in range(len(self._example))])
        return super().__iter__()

    def __int__(self) -> int:
        raise fx.proxy.TraceError("a value is used as a number of Python")

    __float__ = __index__ = __int__


class _Tracer(fx.Tracer):
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
        return module_kind(m) is not None or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._passes():
            return forward(*args, **kwargs)
        before, self.path = self.path, _module_path(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.path = before
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._passes() else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> Any:
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
                f"(the shape of one sample, without the batch axis): {_first_line(error)}"
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
                with _hooks_that_only_look(module, node.meta["path"]):
                    return module(*args, **kwargs)
            case "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            case _:
                assert callable(node.target)
                return node.target(*args, **kwargs)


@contextmanager
def _hooks_that_only_look(module: nn.Module, path: str) -> Iterator[None]:
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


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _share_memory(one: Any, other: Tensor) -> bool:
    return isinstance(one, Tensor) and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _first_line(error: Exception) -> str:
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


def _check_in_place(graph: fx.Graph) -> None:
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


def _lower(graph: fx.Graph, tracer: _Tracer, shape: Shape, builder: Builder | None = None) -> Network:
    _check_in_place(graph)
    builder = builder or Builder()
    refs: _Refs = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            refs[node] = builder.input(shape)
        elif node.op == "output":
            return _finish(builder, refs, node.args[0])
        elif any(source in refs for source in node.all_input_nodes):  # the rest are constants
            builder.path, builder.note = node.meta["path"], _note(node, refs, tracer)
            refs[node] = found = _lower_node(builder, node, refs, tracer)
            if isinstance(found, list):  # of an operation that returns several; what is read of them is checked
                continue
            expected = getattr(node.meta["value"], "shape", None)
            if expected != (BATCH, *found.shape):
                raise InvalidNetworkError(
                    f"{builder.path}: its output has the shape {expected}, where {(BATCH, *found.shape)} was expected."
                )
    raise InvalidNetworkError("The network has no output.")


def _lower_node(builder: Builder, node: fx.Node, refs: _Refs, tracer: _Tracer) -> Ref | list[Ref]:
    known: Callable[[fx.Node], Any] = lambda n: refs[n] if n in refs else tracer.source(n)  # noqa: E731
    args, kwargs = cast("tuple[tuple[Any, ...], dict[str, Any]]", fx.map_arg((node.args, node.kwargs), known))
    if node.op == "call_module":
        module = tracer.source(node)
        if "forward" in vars(module):
            raise InvalidNetworkError(
                f"{builder.path}: its forward was replaced on the instance. Make it a layer of its own."
            )
        kind, name = module_kind(module), f"{type(module).__module__}.{type(module).__qualname__}"
        reason = reason_against(module)
        if kind is not None:
            kwargs = {**kwargs, **kind.arguments(module)}
    else:
        kind, name = function_kind(node.target), node.meta["path"].partition("(")[2].rstrip(")")
        reason = reason_against(node.target)
    if kind is None:
        raise UnsupportedLayerError(
            builder.path,
            name,
            f"{reason}Replace it by a supported layer ({supported()}, the functions of the same names, or +), "
            "or tell what is known of a module of your own: lipguard.register.",
        )
    try:
        return kind.rule(builder, *args, **kwargs)
    except (TypeError, AttributeError) as error:  # a Ref where the rule wants a constant, or an unknown keyword
        raise UnsupportedLayerError(
            builder.path, name, f"It is called in a way that is not supported: {error}."
        ) from error


def _note(node: fx.Node, refs: _Refs, tracer: _Tracer) -> str:
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
    return Network(_reachable(builder.nodes, found.index))


def _reachable(nodes: list[Node], output: int) -> tuple[Node, ...]:
    """The nodes that the output needs, renumbered."""
    needed = {0, output}
    for i in range(output, -1, -1):
        if i in needed:
            needed.update(nodes[i].inputs)
    index = {old: new for new, old in enumerate(sorted(needed))}
    return tuple(dataclasses.replace(nodes[i], inputs=tuple(index[j] for j in nodes[i].inputs)) for i in index)
