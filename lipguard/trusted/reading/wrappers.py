"""What wraps a module, or a function, and changes nothing about what it computes: it is looked through.

A wrapper is known by the class itself, whose `forward` is its own; one that was changed is a module like any other.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lipguard.errors import InvalidNetworkError

# The attribute that holds what is wrapped, by class; those of modules that may not have been imported by their names.
_WRAPPERS: dict[type, str] = {
    nn.DataParallel: "module", nn.parallel.DistributedDataParallel: "module", AveragedModel: "module",
}  # fmt: skip
_ELSEWHERE = (
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    ("lightning.fabric.wrappers", "_FabricModule", "_forward_module"),
    ("lightning_fabric.wrappers", "_FabricModule", "_forward_module"),
)
_COMPILED = "_torchdynamo_orig_callable"  # an attribute of what torch.compile makes of a function


def wrapped(module: nn.Module) -> tuple[str, nn.Module] | None:
    """The attribute under which a wrapper holds a module, and the module; None for what is no wrapper.

    Raises:
        InvalidNetworkError: the wrapper has hooks, which may change what it returns.
    """
    found = [(kind, name) for kind, name in _wrappers().items() if isinstance(module, kind)]
    if not found:
        return None
    kind, name = found[0]
    inner = vars(module)["_modules"].get(name)
    if not isinstance(inner, nn.Module) or _is_changed(module, kind, inner):
        return None
    if module._forward_hooks or module._forward_pre_hooks:
        raise InvalidNetworkError(
            f"the model itself: a {kind.__name__} has a forward hook. Register it on the module that it wraps."
        )
    return name, inner


def uncompiled(function: Any) -> Any:
    """The function that torch.compile was given; any other function itself."""
    while isinstance(function, types.FunctionType):
        if _COMPILED in vars(function):
            function = vars(function)[_COMPILED]
        elif _is_inlined(function):
            function = vars(function)["__wrapped__"]
        else:
            break
    return function


def has_own_forward(module: nn.Module) -> bool:
    """Whether the forward of a module was replaced on the instance, by something else than a compiled form of it."""
    own = uncompiled(vars(module).get("forward"))
    return own is not None and not is_method_of(own, module)


def is_method_of(own: Any, module: nn.Module) -> bool:
    """Whether a function is the forward that a module has by its class."""
    return isinstance(own, types.MethodType) and own.__self__ is module and own.__func__ is type(module).forward


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """Run as Python what torch.compile has compiled; what is compiled already stays so."""
    dynamo: Any = sys.modules.get("torch._dynamo")  # without it nothing is compiled
    with ExitStack() as stack:
        if dynamo is not None:
            stack.enter_context(dynamo.config.patch(error_on_nested_fx_trace=False))
            if hasattr(torch.compiler, "set_stance"):  # since torch 2.6
                stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _wrappers() -> dict[type, str]:
    found = dict(_WRAPPERS)
    for place, name, attribute in _ELSEWHERE:
        kind = getattr(sys.modules.get(place), name, None)
        if isinstance(kind, type):
            found[kind] = attribute
    return found


def _is_changed(module: nn.Module, kind: type, inner: nn.Module) -> bool:
    """Whether a wrapper calls something else than what it wraps."""
    if type(module).forward is not kind.forward or type(module).__call__ is not kind.__call__:  # type: ignore[attr-defined]
        return True
    own = uncompiled(vars(module).get("forward"))
    if own is None:
        return False
    # A compiled module has a forward of its own, the compiled call of what it wraps.
    cls: Any = type(inner)
    calls = (cls.__call__, cls._call_impl, cls.forward)
    return own is not inner and not (
        isinstance(own, types.MethodType) and own.__self__ is inner and own.__func__ in calls
    )


def _is_inlined(function: types.FunctionType) -> bool:
    """Whether it is the frame that torch.compile puts around functions of torch."""
    utils: Any = sys.modules.get("torch._dynamo.external_utils")
    code = function.__code__
    return utils is not None and code.co_qualname == "wrap_inline.<locals>.inner" and code.co_filename == utils.__file__
