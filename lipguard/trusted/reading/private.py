"""A copy of a module to run and to trace in: whatever its forward does leaves no trace in the module itself.

`copy.deepcopy` would follow a LightningModule into its trainer, and refuses tensors that were computed. This copy takes
what a forward may change: modules, tensors, containers, objects of the user's own classes, functions with what they
close over. Classes, and objects of libraries, are shared.
"""

from __future__ import annotations

import copy
import functools
import random
import sys
import types
import weakref
from abc import ABC
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lipguard.trusted.reading.wrappers import is_method_of, uncompiled, wrapped

# Tensors outside of modules, arrays and containers that are larger are data, not state, and are shared.
_MOST_ENTRIES, _MOST_MEMBERS = 2**22, 2**16
# Whose objects are no state of a network: copying a trainer, a logger or a thread would do harm.
_LIBRARIES = sys.stdlib_module_names | {
    "torch", "numpy", "pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities", "wandb", "mlflow",
    "tensorboard", "hydra", "pandas", "distributed", "ray",
}  # fmt: skip
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState)
_CONTAINERS = (dict, list, set, deque)
_PLAIN_BASES = (object, ABC, Generic, Protocol, types.SimpleNamespace)


class PrivateCopy:
    """A copy of a module, and which original each of its modules and tensors has.

    What wraps a module, and what torch.compile made of one, is left out: its place has what it wraps.

    Args:
        model: the module; it is only read.
        dtype: of all floating-point tensors of the copy; None to keep each one's own.
        device: of all tensors; None to keep each one's own.

    Attributes:
        module: the copy. It shares no tensor, container or hook with the original.
    """

    def __init__(
        self, model: nn.Module, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> None:
        self._dtype, self._device = dtype, device
        self._copies: dict[int, Any] = {}  # by the original's id
        self._originals: dict[int, Any] = {}  # by the copy's id
        self._kept: list[Any] = []  # ids are of objects that live
        self.module: nn.Module = self._copied(model)

    def original(self, value: Any) -> Any:
        """What a module or tensor of the copy was copied from; the value itself where it is none."""
        return self._originals.get(id(value), value)

    def _keep(self, value: Any, found: Any) -> Any:
        self._copies[id(value)], self._originals[id(found)] = found, value
        self._kept += [value, found]
        return found

    def _copied(self, value: Any, inside: bool = True) -> Any:
        """The copy of a value; `inside` of a module's own attributes."""
        if id(value) in self._copies:
            return self._copies[id(value)]
        copier = self._copier(value)
        return value if copier is None else copier(value, inside)

    def _copier(self, value: Any) -> Callable[[Any, bool], Any] | None:
        """How a value is copied; None where it is shared."""
        if _is_weak(value):  # first, for proxies look like what they refer to
            return self._reference
        found: tuple[tuple[Any, Callable[[Any, bool], Any]], ...] = (
            ((torch.jit.ScriptModule, *_GENERATORS), lambda v, _: self._keep(v, copy.deepcopy(v))),
            (nn.Module, self._module), (Tensor, self._tensor), (np.ndarray, self._array),
            (torch.Generator, self._generator), (tuple, self._tuple), (_CONTAINERS, self._container),
            (types.FunctionType, self._function), (types.MethodType, self._method), (functools.partial, self._partial),
        )  # fmt: skip
        known = next((copier for classes, copier in found if isinstance(value, classes)), None)
        return known if known is not None else self._object if _is_own(value) else None

    def _module(self, module: nn.Module, inside: bool) -> nn.Module:
        inner = wrapped(module)
        if inner is not None:
            return self._unwrapped(module, *inner)
        found = self._keep(module, object.__new__(type(module)))
        # A trainer is shared, for a forward may ask for the epoch; it logs nothing of what a copy computes.
        held = {name: value for name, value in list(vars(module).items()) if name != "_compiled_call_impl"}
        vars(found).update({name: self._copied(value) for name, value in held.items()})
        if is_method_of(vars(found).get("forward"), found):  # which was compiled
            del vars(found)["forward"]
        if hasattr(module, "log_dict") and hasattr(module, "_trainer"):
            vars(found).update(log=_nothing, log_dict=_nothing)
        return found  # type: ignore[no-any-return]

    def _unwrapped(self, wrapper: nn.Module, name: str, inner: nn.Module) -> nn.Module:
        found: nn.Module = self._copied(inner)
        self._copies[id(wrapper)] = found
        self._kept.append(wrapper)
        if not hasattr(found, name):
            vars(found)[name] = found  # code may ask the wrapper for what it wraps
        return found

    def _tensor(self, tensor: Tensor, inside: bool) -> Tensor:
        if not inside and tensor.numel() > _MOST_ENTRIES:
            return tensor
        plain = tensor.detach()
        dtype = self._dtype if self._dtype is not None and plain.is_floating_point() else plain.dtype
        moved = plain.to(self._device or plain.device, dtype, copy=True)
        if isinstance(tensor, nn.Parameter):
            moved = nn.Parameter(moved, requires_grad=tensor.requires_grad)
        return self._keep(tensor, moved)  # type: ignore[no-any-return]

    def _array(self, array: Any, inside: bool) -> Any:
        return self._keep(array, array.copy()) if array.size <= _MOST_ENTRIES else array

    def _generator(self, generator: torch.Generator, inside: bool) -> torch.Generator:
        found = torch.Generator(generator.device)
        found.set_state(generator.get_state())
        return self._keep(generator, found)  # type: ignore[no-any-return]

    def _tuple(self, values: tuple[Any, ...], inside: bool) -> Any:
        copies = [self._copied(value, inside) for value in values]
        if all(one is other for one, other in zip(copies, values, strict=True)):
            return values
        return self._keep(values, type(values)(*copies) if hasattr(values, "_fields") else type(values)(copies))

    def _container(self, values: Any, inside: bool) -> Any:
        if len(values) > _MOST_MEMBERS:
            return values
        found = self._keep(values, copy.copy(values))
        found.clear()
        if isinstance(values, dict):
            found.update({self._copied(k, inside): self._copied(v, inside) for k, v in list(values.items())})
        elif isinstance(values, set):
            found.update(self._copied(v, inside) for v in list(values))
        else:
            found.extend(self._copied(v, inside) for v in list(values))
        return found

    def _function(self, function: types.FunctionType, inside: bool) -> Any:
        """Shared, as its identity may matter, where it holds nothing that is copied."""
        plain = uncompiled(function)
        if plain is not function:
            return self._copied(plain, inside)
        if _is_of_a_library(function):
            return function
        cells = [types.CellType() for _ in function.__closure__ or ()]
        found = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, tuple(cells))
        self._keep(function, found)  # it may close over itself
        held = [function.__defaults__, function.__kwdefaults__]
        found.__defaults__, found.__kwdefaults__ = (self._copied(value, inside) for value in held)
        changed = found.__defaults__ is not held[0] or bool(held[1])
        for cell, own in zip(cells, function.__closure__ or (), strict=True):
            try:
                content = own.cell_contents
            except ValueError:  # not filled yet
                continue
            cell.cell_contents = self._copied(content, inside)
            changed = changed or not (cell.cell_contents is content or cell.cell_contents is found)
        for name, value in vars(function).items():
            vars(found)[name] = self._copied(value, inside)
            changed = changed or vars(found)[name] is not value
        if not changed:
            self._copies[id(function)] = function
            return function
        functools.update_wrapper(found, function, updated=())
        found.__dict__.pop("__wrapped__", None)
        return found

    def _reference(self, reference: Any, inside: bool) -> Any:
        """A weak reference to the copy of what it refers to; one to nothing, or to what is shared, is shared."""
        proxy = type(reference) in weakref.ProxyTypes
        try:
            referent = reference.__init__.__self__ if proxy else reference()
        except (ReferenceError, AttributeError):
            return reference
        copied = self._copied(referent, inside)
        if copied is referent:
            return reference
        found = weakref.proxy(copied) if proxy else type(reference)(copied)
        self._copies[id(reference)] = found
        self._kept += [reference, found]
        return found

    def _method(self, method: types.MethodType, inside: bool) -> types.MethodType:
        return types.MethodType(self._copied(method.__func__, inside), self._copied(method.__self__, inside))

    def _partial(self, function: Any, inside: bool) -> Any:
        arguments = self._copied(function.args, inside)
        named = {name: self._copied(value, inside) for name, value in function.keywords.items()}
        return self._keep(function, functools.partial(self._copied(function.func, inside), *arguments, **named))

    def _object(self, value: Any, inside: bool) -> Any:
        kind: Any = type(value)
        try:
            found = types.SimpleNamespace() if kind is types.SimpleNamespace else object.__new__(kind)
        except TypeError:  # of a class that is not written in Python
            return value
        self._keep(value, found)
        for name in _slots(kind):
            if hasattr(value, name):
                object.__setattr__(found, name, self._copied(getattr(value, name), False))
        vars(found).update({name: self._copied(own, False) for name, own in list(vars(value).items())})
        return found


@contextmanager
def random_states_kept(device: torch.device) -> Iterator[None]:
    """Give the random states of Python, numpy, torch and a device back afterwards."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def in_eval_mode(model: nn.Module) -> nn.Module:
    """A private copy of the module, as it is in eval mode; the module itself keeps its mode."""
    return PrivateCopy(model).module.eval()


def _is_own(value: Any) -> bool:
    """Whether a value is an object of a class of the user's, with attributes, that can be copied without harm."""
    kind = type(value)
    if isinstance(value, type) or not hasattr(value, "__dict__") or hasattr(kind, "__del__"):
        return False
    return all(cls in _PLAIN_BASES or not _is_of_a_library(cls) for cls in kind.__mro__)


def _is_weak(value: Any) -> bool:
    return type(value) in weakref.ProxyTypes or isinstance(value, weakref.ReferenceType)


def _is_of_a_library(value: Any) -> bool:
    return str(getattr(value, "__module__", None)).partition(".")[0] in _LIBRARIES


def _slots(kind: type) -> list[str]:
    named = [vars(cls).get("__slots__", ()) for cls in kind.__mro__]
    found = [name for names in named for name in ((names,) if isinstance(names, str) else names)]
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def _nothing(*_: Any, **__: Any) -> None:
    """In place of a LightningModule's `log`."""
