"""Values in words that say all that matters of them, and are the same in every process: what a digest is made of."""

from __future__ import annotations

import enum
import hashlib
import types
from collections.abc import Iterable, Mapping, Set
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_PLAIN = (type(None), bool, int, str, bytes, complex, torch.dtype, torch.device, torch.layout, torch.memory_format)
_BUILT_IN = (
    types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.GetSetDescriptorType,
    types.MemberDescriptorType, np.ufunc,
)  # fmt: skip
_WRAPPED = (staticmethod, classmethod)
_OWN = frozenset(vars(nn.Module()))  # bookkeeping of every module
_FUNCTION_OF = ("training", "_parameters", "_buffers", "_modules")  # what of it a module's function depends on
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_SAYS_NOTHING = frozenset({
    "__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__", "__annotate__",
    "__firstlineno__", "__static_attributes__", "__abstractmethods__", "_abc_impl",
})  # fmt: skip  # of what a class holds


def described(value: object, weights: bool, within: tuple[object, ...] = ()) -> Any:
    """A value in tuples of words and numbers, whose `repr` tells it from every other that does something else.

    Functions and classes count by name; what has no name that others could import also by its code and what it holds.

    Args:
        value: a field of a layer, or something that it holds.
        weights: whether the numbers of tensors of floats count, or their shapes only.
        within: what holds it.

    Raises:
        TypeError: it has a state that cannot be read.
    """
    for above, holder in enumerate(reversed(within)):
        if holder is value and type(value) not in _PLAIN:
            return ("the value that holds it", above)
    within = (*within, value)

    def all_of(values: Iterable[object]) -> tuple[Any, ...]:
        return tuple(described(own, weights, within) for own in values)

    if isinstance(value, enum.Enum):
        return (*_named(type(value)), value.name)
    if type(value) in _PLAIN:
        return (type(value).__name__, repr(value))
    if type(value) is float:
        return ("float", value.hex())
    if isinstance(value, Tensor):
        return _tensor(value, weights)
    if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
        return ("array", str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest())
    if isinstance(value, partial):
        return ("partial", *all_of((value.func, value.args, value.keywords)))
    if isinstance(value, types.MethodType):
        return ("method", *all_of((value.__self__, value.__func__)))
    if isinstance(value, types.FunctionType):
        return (*_named(value), *(all_of(_inside(value)) if _is_local(value) else ()))
    if isinstance(value, _BUILT_IN):
        return _named(value)
    if isinstance(value, type):
        held = [item for item in sorted(vars(value).items()) if item[0] not in _SAYS_NOTHING]
        return (*_named(value), *(all_of((*held, *value.__bases__)) if _is_local(value) else ()))
    if isinstance(value, _WRAPPED):
        return (type(value).__name__, *all_of((value.__func__,)))
    if isinstance(value, property):
        return ("property", *all_of((value.fget, value.fset, value.fdel)))
    if isinstance(value, types.ModuleType):
        return ("module", value.__name__)
    if isinstance(value, types.CodeType):
        return ("code", value.co_code, value.co_names, value.co_varnames, *all_of(value.co_consts))
    if isinstance(value, nn.Module):
        return _module(value, weights, within)
    own = all_of(sorted(_attributes(value).items()))
    if isinstance(value, Mapping):
        return (*_named(type(value)), *all_of(value.items()), *own)
    if isinstance(value, (list, tuple)):
        return (*_named(type(value)), *all_of(value), *own)
    if isinstance(value, Set):
        return (*_named(type(value)), *sorted(all_of(value), key=repr), *own)
    return (*all_of((type(value), *value.__reduce_ex__(4))), *own)


def numbers_of(tensor: Tensor) -> NDArray[np.uint8]:
    """The bytes of a tensor's numbers, one after the other.

    Raises:
        RuntimeError, NotImplementedError: it has none to read (sparse, quantised, on no device).
    """
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    if plain.stride(0) != 1:  # of one number or none, any stride counts as contiguous
        plain = plain.clone(memory_format=torch.contiguous_format)
    found: NDArray[np.uint8] = plain.view(torch.uint8).numpy()
    return found


def _tensor(value: Tensor, weights: bool) -> tuple[Any, ...]:
    if not weights and (value.is_floating_point() or value.is_complex()):
        return ("weights", tuple(value.shape))
    try:
        numbers = numbers_of(value.resolve_conj().resolve_neg()).tobytes()
    except (RuntimeError, NotImplementedError) as error:
        raise TypeError(f"a tensor whose numbers cannot be read ({error})") from error
    return ("tensor", str(value.dtype), tuple(value.shape), hashlib.sha256(numbers).hexdigest())


def _module(value: nn.Module, weights: bool, within: tuple[object, ...]) -> tuple[Any, ...]:
    state = vars(value)
    known: dict[str, object] = {name: state[name] for name in state if name not in _OWN or name in _FUNCTION_OF}
    if not weights:  # whatever they are made of: batches are counted in integers
        for name in ("_parameters", "_buffers"):
            known[name] = {key: None if t is None else tuple(t.shape) for key, t in state[name].items()}
    known |= {name: list(state[name].values()) for name in _HOOKS}  # their keys are counted through a process
    return (
        described(type(value), weights, within),
        *((name, described(own, weights, within)) for name, own in sorted(known.items())),
    )


def _named(value: Any) -> tuple[Any, ...]:
    """Where a function or a class is found. A built-in one may belong to a class."""
    owner = getattr(value, "__objclass__", getattr(value, "__self__", None))
    of = getattr(owner, "__qualname__", getattr(owner, "__name__", ""))
    return (type(value).__name__, getattr(value, "__module__", ""), of, getattr(value, "__qualname__", value.__name__))


def _is_local(value: Any) -> bool:
    """Whether it was made by a function, or has no name: others of the same name may do something else."""
    return "<" in value.__qualname__


def _inside(function: types.FunctionType) -> tuple[object, ...]:
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return (function.__code__, function.__defaults__, function.__kwdefaults__, *cells)


def _attributes(value: object) -> dict[str, object]:
    return dict(vars(value)) if hasattr(value, "__dict__") else {}
