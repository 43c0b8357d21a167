"""Everything that can be reached from a module, by identity and by content: what is equal, nothing has touched."""

from __future__ import annotations

import functools
import random
import types
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def photograph(model: nn.Module) -> Any:
    """What is reachable from the module, with its gradients, hooks and modes, and all random states."""
    return _of(model, set()), random_states()


def random_states() -> Any:
    """Of Python, numpy and torch."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), (name, np.asarray(keys).tobytes(), *rest), torch.get_rng_state().numpy().tobytes()


def _of(value: Any, seen: set[int]) -> Any:
    if isinstance(value, (int, float, str, bytes, complex, type(None), type, torch.dtype, torch.device)):
        return repr(value)
    if type(value) in weakref.ProxyTypes or isinstance(value, weakref.ReferenceType):
        return id(value)
    if id(value) in seen:
        return id(value)
    seen.add(id(value))
    if isinstance(value, Tensor):
        plain = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        own = (value.dtype, tuple(value.shape), value.requires_grad, value._version, type(value).__name__)
        return id(value), own, plain, _of(value.grad, seen) if value.is_leaf else None
    if isinstance(value, np.ndarray):
        return id(value), value.tobytes()
    if isinstance(value, torch.Generator):
        return id(value), value.get_state().numpy().tobytes()
    if isinstance(value, random.Random):
        return id(value), value.getstate()
    if isinstance(value, dict):
        return id(value), [(_of(k, seen), _of(v, seen)) for k, v in value.items()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value), id(value) if not isinstance(value, tuple) else 0, [_of(v, seen) for v in value]
    if isinstance(value, types.MethodType):
        return _of(value.__func__, seen), _of(value.__self__, seen)
    if isinstance(value, functools.partial):
        return id(value), _of(value.func, seen), _of(value.args, seen), _of(value.keywords, seen)
    if isinstance(value, types.FunctionType):
        cells = tuple(cell.cell_contents for cell in value.__closure__ or ())
        return id(value), [_of(v, seen) for v in (cells, value.__defaults__, value.__kwdefaults__, vars(value))]
    if isinstance(value, types.ModuleType) or not hasattr(value, "__dict__"):
        return id(value)
    return id(value), type(value), _of(vars(value), seen)
