"""What a module's code is given while it is traced, and what it sees of the world."""

from __future__ import annotations

import builtins
import operator
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

from torch import Tensor, fx

_TRACES = ("torch.fx.", "torch.nn.parameter", "lipguard.trusted.reading.tracer", __name__)
_OF_SHAPES = frozenset({
    "size", "dim", "ndimension", "numel", "nelement", "stride", "element_size", "get_device", "is_contiguous",
    "is_floating_point", "is_complex", "is_signed",
})  # fmt: skip  # methods that ask for nothing else


class _Numbers(Protocol):
    def number(self, node: fx.Node) -> Any: ...


class Value(fx.Proxy):
    """A proxy that knows its shape, so that code which asks for it is traced as any other."""

    @property
    def _example(self) -> Any:
        if self.node.meta.get("ragged"):
            raise fx.proxy.TraceError("how many entries there are depends on values")
        return self.node.meta["value"]

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._example, name)
        if issubclass(type(found), Tensor):
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return super().__getattr__(name) if callable(found) and name not in _OF_SHAPES else found

    def __len__(self) -> int:
        return len(self._example)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Put something in its place: from here on this stands for another value."""
        self.node = self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {}).node

    def __iter__(self) -> Any:
        return iter([operator.getitem(cast("Any", self), k) for k in range(len(self._example))])

    def __format__(self, spec: str) -> str:
        return repr(self)  # which says nothing of what it is

    def __int__(self) -> int:
        return int(cast("_Numbers", self.tracer).number(self.node))

    __index__ = __int__

    def __float__(self) -> float:
        return float(cast("_Numbers", self.tracer).number(self.node))


@contextmanager
def types_of_values(passes: Callable[[], bool]) -> Iterator[None]:
    """`isinstance` says of a value what it says of the tensor that it stands for: code that checks types is traced.

    Args:
        passes: whether a call is none of the network's.
    """
    plain = builtins.isinstance

    def of_values(value: object, kinds: Any, /) -> bool:
        if issubclass(type(value), fx.Proxy) and not passes() and not _traces(sys._getframe(1)):
            value = value.node.meta["value"]  # type: ignore[attr-defined]
        return plain(value, kinds)

    builtins.isinstance = of_values
    try:
        yield
    finally:
        builtins.isinstance = plain


@contextmanager
def nothing_printed() -> Iterator[None]:
    """What the code of a private copy prints is nothing that a user asked for; other threads print on."""
    plain, own = builtins.print, threading.get_ident()

    def quiet(*args: Any, **kwargs: Any) -> None:
        if threading.get_ident() != own:
            plain(*args, **kwargs)

    builtins.print = quiet
    try:
        yield
    finally:
        builtins.print = plain


def _traces(frame: types.FrameType) -> bool:
    """Whether a frame is of what traces, and has to know a value when it sees one."""
    return str(frame.f_globals.get("__name__")).startswith(_TRACES)
