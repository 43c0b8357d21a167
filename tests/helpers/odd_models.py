"""Models as people write them: with two names for a module, state, caches, hooks, and code that keeps what it sees.

Each maps inputs of shape (4,) to two numbers. Some have a bound and some are refused; none may be changed.
"""

from __future__ import annotations

import functools
import random
import types
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune


class TwoNames(nn.Module):
    """The first layer is registered twice, as Fabric's wrapper and many heads are."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.body = nn.Sequential(self.first, nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class TiedWeights(nn.Module):
    """One parameter in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.other(torch.relu(self.one(x)))))


class Normalised(nn.Module):
    """Divides its weight by a norm that it keeps in a buffer; the buffer is never read."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 4))
        self.register_buffer("norm", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        norm = self.weight.norm()
        self.norm = norm.detach()
        return F.linear(x, self.weight / norm)


class Cached(nn.Module):
    """Computes a matrix once, in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.cache = nn.Parameter(torch.randn(2, 4)), None

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.cache is None:
            self.cache = self.weight / (1 + self.weight.abs().sum())  # type: ignore[assignment]
        return F.linear(x, self.cache)


class Keeping(nn.Module):
    """Keeps what it sees in attributes, lists, dictionaries, objects and an array."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.features, self.last_shape = nn.Linear(4, 2), None, None
        self.seen: list[Any] = []
        self.stats: dict[str, Any] = defaultdict(list)
        self.log_of_shapes = types.SimpleNamespace(shapes=[], count=np.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        self.features, self.last_shape = y, tuple(x.shape)
        self.seen.append(x)
        self.stats["inputs"].append(x)
        self.log_of_shapes.shapes.append(x.shape)
        self.log_of_shapes.count[0] += 1
        return y


class Counter:
    """An object of somebody's own."""

    def __init__(self) -> None:
        self.calls = 0


class Counting(nn.Module):
    """Counts its calls in an object, and draws numbers that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.counter = nn.Linear(4, 2), Counter()
        self.generator, self.python = torch.Generator().manual_seed(0), random.Random(0)

    def forward(self, x: Tensor) -> Tensor:
        self.counter.calls += 1
        torch.rand(3), torch.rand(3, generator=self.generator)
        random.random(), self.python.random(), np.random.rand()  # noqa: NPY002
        return self.layer(x)


class Running(nn.Module):
    """A running mean that goes on in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        return self.layer(x - self.mean)


class InPlace(nn.Module):
    """Changes a buffer, a parameter or an attribute in place at every call."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.layer, self.what, self.plain = nn.Linear(4, 2), what, torch.ones(())
        self.weight = nn.Parameter(torch.ones(()))
        self.register_buffer("buffer", torch.ones(()))
        self.number = 1.0

    def forward(self, x: Tensor) -> Tensor:
        if self.what == "number":
            self.number = self.number / 2
            return self.number * self.layer(x)
        held: Tensor = getattr(self, self.what)
        y: Tensor = self.layer(x) * held.detach().clone()
        with torch.no_grad():
            held.mul_(0.5)
        return y


class Child(nn.Module):
    """Tells its parent, which it knows by weak references, what it has seen."""

    def __init__(self, parent: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.parent, self.again = [weakref.proxy(parent)], weakref.ref(parent)
        self.method = weakref.WeakMethod(parent.note)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        self.parent[0].seen = y
        self.again().shape = y.shape  # type: ignore[union-attr]
        self.method()(y)  # type: ignore[misc]
        return y


class Parent(nn.Module):
    """Has a child that refers to it."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[Any] = []
        self.child, self.head = Child(self), nn.Linear(4, 2)

    def note(self, y: Tensor) -> None:
        self.noted.append(y)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.child(x)))


class Unregistered(nn.Module):
    """Layers in a plain list, and a bound method as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)]
        self.run = self._run

    def _run(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def plain() -> nn.Sequential:
    """A network of two layers."""
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def _collecting() -> nn.Module:
    model, seen = plain(), []

    def look(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(output)
        model.last = output

    model[0].register_forward_hook(look)
    return model


def _failing_hook() -> nn.Module:
    def fail(module: nn.Module, args: Any) -> None:
        raise RuntimeError("a hook of somebody's")

    model = plain()
    model[2].register_forward_pre_hook(fail)
    return model


def _failing_late() -> nn.Module:
    return nn.Sequential(Keeping(), Normalised2(), nn.Softmin(1))


class Normalised2(Normalised):
    """For inputs of two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 2))


def _patched() -> nn.Module:
    model = plain()
    own = model[0]
    own.forward = functools.partial(lambda layer, x: F.linear(x, 2 * layer.weight), own)  # type: ignore[method-assign]
    return model


def _pruned() -> nn.Module:
    model = plain()
    prune.random_unstructured(model[0], "weight", 0.5)
    return model


def _mixed_modes() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).train()
    model[1].eval()
    return model


def _with_gradients() -> nn.Module:
    model = plain()
    model(torch.ones(3, 4)).sum().backward()
    model[0].weight.requires_grad_(False)
    return model


ODD_MODELS: dict[str, Callable[[], nn.Module]] = {
    "two names": TwoNames,
    "tied weights": TiedWeights,
    "a buffer that forward assigns": Normalised,
    "a cache": Cached,
    "a model that keeps what it sees": Keeping,
    "a model that counts and draws": Counting,
    "a running mean": Running,
    **{f"a {what} in place": functools.partial(InPlace, what) for what in ("buffer", "weight", "plain", "number")},
    "layers in a list": Unregistered,
    "a child that tells its parent": Parent,
    "a hook that collects": _collecting,
    "a hook that fails": _failing_hook,
    "a layer that is refused": _failing_late,
    "a patched forward": _patched,
    "pruned": _pruned,
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Linear(4, 2)),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2)),
    "spectral norm by a hook": lambda: nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(4, 4)), nn.Linear(4, 2)),
    "mixed modes": _mixed_modes,
    "gradients": _with_gradients,
    "bfloat16": lambda: plain().bfloat16(),
}
