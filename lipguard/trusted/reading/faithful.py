"""Whether a traced network is the function that is called: hooks, patches, state and batches show here."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from lipguard.errors import InvalidNetworkError
from lipguard.trusted.layers import Shape
from lipguard.trusted.network.digest import numbers_of
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.choice import OneFunction, path_in_model

# Of samples, by batch: other sizes than the one that was traced, and inputs near and far from zero.
_SCALES = ((1.0,), (1.0, 2.0**-7), (1.0, 2.0**5, 2.0**20, 2.0**-12))
_FAR = tuple((2.0**k,) for k in range(60, 1000, 120))  # where a bias is large
_DOUBLE = 1e-6  # relative to what varies with the input, of outputs in double precision
_SHARE = 1e-2  # of what varies that rounding may hide
_UNSEEN = 1e-9  # of the input: what a constant function would have to vary by to be seen as one that is not
_MANY, _COLUMNS = 2**20, 4099  # bytes that are summed by columns; a prime, so that rows of a matrix are none of theirs
_State: TypeAlias = dict[str, dict[str, Any]]  # marks of attributes, by module
_INTERNAL = frozenset(vars(nn.Module()))


def normal_batch(size: int, shape: Shape) -> Tensor:
    """Standard normal samples, shape (size, *shape), of float64, the same ones every time."""
    return torch.randn(size, *shape, generator=torch.Generator().manual_seed(size), dtype=torch.float64)


def check_against_model(network: Network, model: OneFunction, like: Tensor) -> None:
    """Compare a network with the module that it was read from, at several batch sizes and scales.

    Differences count relative to what varies with the input: a large bias hides nothing.

    Args:
        network: as it was traced.
        model: a private copy of what is read of a module; it is changed here.
        like: a tensor of the precision and on the device in which the module runs.

    Raises:
        InvalidNetworkError: they differ, or the module's function changes from call to call.
    """
    with _Calls(model).watched() as calls:
        comparison = _Comparison(network, calls, like)
        hidden = max(comparison.at(scales) for scales in _SCALES)
        comparison.again()
        # Far away what varies may outgrow the bias; where it does not, derivatives show it.
        sees = hidden <= _SHARE or any(comparison.at(scales) <= _SHARE for scales in _FAR)
    if not sees:
        _compare_derivatives(network, model, normal_batch(2, network.input_shape), like, comparison.tolerance)


class _Comparison:
    """Outputs of a module beside those of a network, in units of what varies from the output at zero."""

    def __init__(self, network: Network, calls: _Calls, like: Tensor) -> None:
        self._network, self._calls, self._like = network, calls, like
        eps = torch.finfo(like.dtype).eps
        layers = 1 + len(network.nodes)
        self.tolerance = _DOUBLE if like.dtype == torch.float64 else math.sqrt(eps) * layers
        self._rounding = 64 * layers * eps
        x = self._batch(_SCALES[0])
        self._first = x, self._run(x)  # by the first call of all, which may put in place what others read
        origin = self._run(torch.zeros(1, *network.input_shape, dtype=torch.float64))[0]
        self._origin = origin.nan_to_num(0.0, 0.0, 0.0)  # a logarithm, say, has no value there

    def at(self, scales: Sequence[float]) -> float:
        """Compare a batch of samples of some sizes; the share of what varies of the first that rounding may hide.

        Raises:
            InvalidNetworkError: outputs differ, or that of the first sample is not finite.
        """
        x, expected = self._first
        if scales is not _SCALES[0]:
            x = self._batch(scales)
            expected = self._run(x)
        found = self._network.forward(x)
        hidden = math.inf
        for k, (one, other) in enumerate(zip(expected, found, strict=True)):
            if not torch.isfinite(one).all():
                if scales[k] != 1:  # far from zero
                    continue
                raise InvalidNetworkError("The network's output on a standard normal input is not finite.")
            varies, error = _largest(one - self._origin), _largest(other - one)
            rounding = self._rounding * max(_largest(one), _largest(self._origin))
            if not error <= self.tolerance * varies + rounding:
                raise InvalidNetworkError(
                    f"The traced network does not reproduce the model on a batch of {len(x)}: outputs differ by "
                    f"{error:.3g}, of {varies:.3g} that vary with the input. Hooks, patched methods, random numbers, "
                    "custom classes and what depends on the batch's size compute what the graph does not show."
                )
            if k == 0:
                hidden = rounding / max(varies, _UNSEEN * _largest(x[k]))
        return hidden

    def again(self) -> None:
        """Run the first batch again.

        Raises:
            InvalidNetworkError: outputs differ.
        """
        x, one = self._first
        if _largest(one - self._run(x)) > self.tolerance * _largest(one - self._origin):
            raise InvalidNetworkError(
                "The model returns something else for the same input when it is called again: random numbers, or "
                "state that its forward changes. Such a function has no one Lipschitz constant."
            )

    def _batch(self, scales: Sequence[float]) -> Tensor:
        shape = self._network.input_shape
        factors = torch.tensor(scales, dtype=torch.float64).reshape(-1, *(1 for _ in shape))
        return factors * normal_batch(len(scales), shape)

    def _run(self, x: Tensor) -> Tensor:
        return self._calls.run(x, self._like, self._network.output_shape)


def _compare_derivatives(network: Network, model: nn.Module, x: Tensor, like: Tensor, tolerance: float) -> None:
    """Where a bias is so large that rounding hides what varies: derivatives do not see it."""
    weights = normal_batch(len(x) + 1, network.output_shape)[: len(x)]
    found = []
    for run, kind in ((network.forward, x), (model, like)):
        point = x.to(kind.device, kind.dtype, copy=True).requires_grad_()
        try:
            with torch.enable_grad():
                value = (run(point.clone()) * weights.to(kind.device, kind.dtype)).sum()
                gradient = torch.autograd.grad(value, point, allow_unused=True)[0]
        except RuntimeError as failure:
            raise InvalidNetworkError(
                "The network's output hardly varies beside its size, and it cannot be differentiated, so that it "
                f"cannot be compared with what was traced: {failure}. Subtract the large constant from its output."
            ) from failure
        found.append(torch.zeros_like(x) if gradient is None else gradient.to("cpu", torch.float64))
    error, size = _largest(found[0] - found[1]), _largest(found[1])
    if not error <= tolerance * size:
        raise InvalidNetworkError(
            f"The traced network does not reproduce the model: derivatives differ by {error:.3g}, of {size:.3g}. "
            "Hooks, patched methods and custom classes may compute what the graph does not show."
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


class _Calls:
    """Calls of a module, and what it keeps from one to the next.

    A value that its forward reads before it writes it, and leaves changed, makes the next call another function. What
    is only written (features that are kept, the last shape) and what stays the same once it is there (a cache) does
    not.
    """

    def __init__(self, model: OneFunction) -> None:
        self._model = model
        self._modules = {path_in_model(name): module for name, module in model.named_modules() if name}
        self._read: set[tuple[int, str]] = set()
        self._written: set[tuple[int, str]] = set()
        self._left: _State = {}  # after the last call; nobody changes it until the next
        self._whole: _State = {}  # after the first: a look at large tensors takes as long as a call
        self._calls = 0

    @contextmanager
    def watched(self) -> Iterator[_Calls]:
        """Look at attributes while modules are called."""
        classes = [(module, type(module)) for module in self._modules.values()]
        for module, kind in classes:
            try:
                module.__class__ = self._watching(kind)
            except TypeError:  # not written in Python
                self._read |= {(id(module), name) for name in _state(module)}
        try:
            yield self
            self._compare(self._whole, self._state(whole=True))
        finally:
            for module, kind in classes:
                if type(module) is not kind:
                    module.__class__ = kind

    def run(self, x: Tensor, like: Tensor, shape: Shape) -> Tensor:
        """The module's output for samples x, on the CPU in float64.

        Raises:
            InvalidNetworkError: it cannot be called, or changes what it reads.
        """
        before = self._left or self._state()
        self._written.clear()
        try:
            y = self._model(x.to(like.device, like.dtype, copy=True))
        except Exception as error:  # whatever the user's forward raises
            raise InvalidNetworkError(
                f"The model cannot be called with a batch of {len(x)}: {type(error).__name__}: {_first_line(error)}"
            ) from error
        if isinstance(y, Tensor) and len(x) == 1 and tuple(y.shape) == shape:  # squeeze() drops a batch axis of one
            y = y[None]
        if not isinstance(y, Tensor) or tuple(y.shape) != (len(x), *shape):
            seen = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise InvalidNetworkError(
                f"The model returns {seen} for a batch of {len(x)}, where {(len(x), *shape)} was expected: it mixes "
                "the batch axis with others, or its code holds the size of a batch."
            )
        self._left = self._state()
        self._compare(before, self._left)
        self._whole = self._whole or self._state(whole=True)
        self._calls += 1
        return y.detach().to("cpu", torch.float64)

    def _state(self, whole: bool = False) -> _State:
        return {name: _state(module, whole) for name, module in self._modules.items()}

    def _compare(self, before: _State, after: _State) -> None:
        for name, module in self._modules.items():
            for key, mark in before[name].items():
                kind = "buffer" if key in module._buffers else "parameter" if key in module._parameters else "attribute"
                kept = (id(module), key) in self._read and after[name].get(key, mark) != mark
                if kept and (kind == "parameter" or self._calls):  # what the first call puts in place may be a cache
                    raise InvalidNetworkError(
                        f"{name}: forward reads and changes its {kind} {key!r}, so that the model is another function "
                        "at every call. In eval mode, keep it constant."
                    )

    def _watching(self, kind: type) -> type:
        read, written = self._read, self._written

        def get(module: Any, name: str) -> Any:
            key = (id(module), name)
            if key not in written:
                read.add(key)
            return super(watching, module).__getattribute__(name)  # type: ignore[arg-type]

        def put(module: Any, name: str, value: Any) -> None:
            written.add((id(module), name))
            super(watching, module).__setattr__(name, value)  # type: ignore[arg-type]

        own = {"__getattribute__": get, "__setattr__": put, "__module__": kind.__module__}
        watching = type(kind.__name__, (kind,), own)
        return watching


def _state(module: nn.Module, whole: bool = False) -> dict[str, Any]:
    """A mark of every tensor, number and text that a module holds: of its content, unless that is large."""
    held = {name: value for name, value in vars(module).items() if name not in _INTERNAL}
    held |= module._buffers | module._parameters
    return {name: _mark(value, whole) for name, value in held.items() if isinstance(value, (Tensor, int, float, str))}


def _mark(value: Any, whole: bool) -> Any:
    if not isinstance(value, Tensor):
        return repr(value)
    kind = tuple(value.shape), str(value.dtype)
    if value.numel() * value.element_size() < _MANY:
        return *kind, zlib.crc32(numbers_of(value.to_dense()).data)
    if not whole:
        return kind
    numbers = numbers_of(value.to_dense())
    # Sums of columns, exact but for multiples of 2^64: any number that changes shows, and most that change places.
    end = len(numbers) // (8 * _COLUMNS) * 8 * _COLUMNS
    sums = numbers[:end].view(np.uint64).reshape(-1, _COLUMNS).sum(axis=0, dtype=np.uint64)
    return *kind, zlib.crc32(sums.data), zlib.crc32(numbers[end:].data)
