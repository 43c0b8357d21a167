"""Convex sets of inputs, as values and as arrays of a file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipguard.errors import ConfigError, expect
from lipguard.trusted.layers import (
    Shape,
)
from lipguard.trusted.rounding import lengths

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Box:
    """All inputs with low <= x <= high, entry by entry.

    Args:
        low, high: numbers, or tensors of the shape of one sample (or that broadcast to it).

    Raises:
        ConfigError: they are not finite, or not in order.
    """

    low: Tensor | float
    high: Tensor | float

    def __post_init__(self) -> None:
        low, high = _finite(self, "low"), _finite(self, "high")
        try:
            ordered = bool((low <= high).all())
        except RuntimeError as error:
            raise ConfigError("Box: expected low and high to have shapes that fit together.") from error
        if not ordered:
            raise ConfigError("Box: expected low <= high everywhere.")

    def centre(self, shape: Shape) -> Tensor:
        """One sample, of float64."""
        return ((_tensor(self.low) + _tensor(self.high)) / 2).broadcast_to(_fitting(self, shape))

    def halves(self, shape: Shape) -> Tensor:
        """How far entries are from the centre, at most."""
        middle = self.centre(shape)
        size = torch.maximum(_tensor(self.high) - middle, middle - _tensor(self.low)).broadcast_to(shape)
        return torch.nextafter(size, torch.full_like(size, torch.inf)) if bool((size > 0).any()) else size

    def radius(self, shape: Shape) -> float:
        """How far a point is from the centre, at most, in l2."""
        return float(lengths(self.halves(shape).reshape(1, -1)))

    def project(self, x: Tensor) -> Tensor:
        """The nearest points of the domain."""
        return torch.minimum(torch.maximum(x, _tensor(self.low)), _tensor(self.high))


@dataclass(frozen=True, eq=False)
class Ball:
    """All inputs within `size` of a point, in l2.

    Args:
        point: a tensor of the shape of one sample, or a number.
        size: the radius.

    Raises:
        ConfigError: they are not finite, or the radius is negative.
    """

    point: Tensor | float
    size: float

    def __post_init__(self) -> None:
        _finite(self, "point")
        if _finite(self, "size").numel() != 1 or not float(self.size) >= 0:
            raise ConfigError(f"Ball: expected its radius to be a number that is not negative, but got {self.size!r}.")

    def centre(self, shape: Shape) -> Tensor:
        """One sample, of float64."""
        return _tensor(self.point).broadcast_to(_fitting(self, shape))

    def halves(self, shape: Shape) -> Tensor:
        """How far entries are from the centre, at most."""
        return torch.full(shape, float(self.size), dtype=torch.float64)

    def radius(self, shape: Shape) -> float:
        """How far a point is from the centre, at most, in l2."""
        return float(self.size)

    def project(self, x: Tensor) -> Tensor:
        """The nearest points of the domain."""
        away = x - _tensor(self.point)
        length = away.flatten(1).norm(dim=1).reshape(-1, *(1 for _ in x.shape[1:])).clamp_min(1e-300)
        nearest: Tensor = _tensor(self.point) + away * (float(self.size) / length).clamp(max=1.0)
        return nearest


Domain: TypeAlias = Box | Ball


def checked_domain(domain: Domain | None) -> None:
    """Refuse what is no domain.

    Raises:
        ConfigError: it is neither a `Box`, nor a `Ball`, nor None.
    """
    expect("domain", domain, (Box, Ball, NoneType), "a Box, a Ball or None")


def _tensor(value: Tensor | float) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()  # never by way of float32


def _finite(domain: Domain, name: str) -> Tensor:
    try:
        value = _tensor(getattr(domain, name))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{type(domain).__name__}: expected {name} to be a number or a tensor.") from error
    if not torch.isfinite(value).all():
        raise ConfigError(f"{type(domain).__name__}: expected {name} to be finite.")
    return value


def _fitting(domain: Domain, shape: Shape) -> Shape:
    for field in dataclasses.fields(domain):
        own = tuple(_tensor(getattr(domain, field.name)).shape)
        try:
            fits = np.broadcast_shapes(own, shape) == tuple(shape)
        except ValueError:
            fits = False
        if not fits:
            raise ConfigError(
                f"{type(domain).__name__}: expected {field.name} to fit samples of shape {shape}, but it has the shape "
                f"{own}."
            )
    return shape


def are_equal(one: Domain, other: Domain, shape: Shape) -> bool:
    """Whether two domains of samples of a shape are the same, entry by entry."""
    if type(one) is not type(other):
        return False
    pairs = [(_tensor(getattr(one, f.name)), _tensor(getattr(other, f.name))) for f in dataclasses.fields(one)]
    try:
        return all(torch.equal(a.broadcast_to(shape), b.broadcast_to(shape)) for a, b in pairs)
    except RuntimeError:  # one of them is not of this shape
        return False


def in_words(domain: Domain) -> str:
    """A domain as it would be written, in one line; tensors are not written out."""
    own = {field.name: _tensor(getattr(domain, field.name)) for field in dataclasses.fields(domain)}
    words = (f"{float(value):g}" if value.numel() == 1 else f"a tensor of {value.numel()}" for value in own.values())
    return f"{type(domain).__name__}({', '.join(words)})"


def to_arrays(domain: Domain, shape: Shape) -> tuple[str, dict[str, Array]]:
    """(kind, arrays by name), for a certificate."""
    found = {}
    for field in dataclasses.fields(domain):
        value = _tensor(getattr(domain, field.name))
        value = value.reshape(1) if value.numel() == 1 else value.broadcast_to(shape).reshape(-1)
        found[f"domain_{field.name}"] = value.numpy().copy()
    return type(domain).__name__, found


def from_arrays(kind: str, arrays: Mapping[str, Array], shape: Shape) -> Domain:
    """The inverse of `to_arrays`.

    Raises:
        ValueError: it is none.
        ConfigError: a value makes no sense.
    """
    classes: dict[str, Any] = {"Box": Box, "Ball": Ball}
    if kind not in classes:
        raise ValueError(f"unknown domain {kind!r}")
    names = [field.name for field in dataclasses.fields(classes[kind])]
    if set(arrays) != {f"domain_{name}" for name in names}:
        raise ValueError(f"a {kind} has {names}")
    values = []
    for name in names:
        value = arrays[f"domain_{name}"]
        if value.size not in (1, math.prod(shape)):
            raise ValueError(f"{name} of a {kind} has {value.size} entries")
        values.append(float(value[0]) if value.size == 1 else torch.from_numpy(value.reshape(shape).copy()))
    domain: Domain = classes[kind](*values)
    return domain
