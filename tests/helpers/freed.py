"""The freed network from the torch model alone: every activation's output is replaced by a variable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from helpers.networks import Sample

Array = NDArray[np.float64]


def slopes(module: nn.Module) -> tuple[float, float] | None:
    """Smallest and largest difference quotient, None for a module that is no activation."""
    match module:
        case nn.ReLU() | nn.Tanh():
            return 0.0, 1.0
        case nn.Sigmoid():
            return 0.0, 0.25
        case nn.LeakyReLU():
            return min(module.negative_slope, 1.0), max(module.negative_slope, 1.0)
        case nn.ELU():
            return min(0.0, module.alpha), max(1.0, module.alpha)
        case _:
            return None


@contextmanager
def replaced(model: nn.Module, replace: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Activations return `replace(module, input, output)`, called in order of execution."""
    before: dict[nn.Module, Tensor] = {}  # in-place modules overwrite their input

    def keep(module: nn.Module, args: Any) -> tuple[Tensor]:
        before[module] = args[0].clone()
        return (args[0].clone(),)

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return replace(module, before[module], output)

    found = [module for module in model.modules() if slopes(module) is not None]
    handles = [m.register_forward_pre_hook(keep) for m in found] + [m.register_forward_hook(hook) for m in found]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Record:
    """One run of the model on one sample, everything flat."""

    pre: Tensor
    post: Tensor
    output: Tensor
    alpha: Array
    beta: Array


def record(sample: Sample, x: Tensor) -> Record:
    """Run the model on `x`, shape (*input_shape)."""
    rows: list[tuple[Tensor, Tensor, tuple[float, float]]] = []

    def replace(module: nn.Module, a: Tensor, b: Tensor) -> Tensor:
        rows.append((a.flatten(), b.flatten(), slopes(module) or (0.0, 0.0)))
        return b

    with torch.no_grad(), replaced(sample.model, replace):
        output = sample.model(x[None]).flatten()
    nothing = torch.zeros(0, dtype=torch.float64)
    ranges = [np.tile(np.array(r), (len(a), 1)) for a, _, r in rows]
    table = np.concatenate([np.zeros((0, 2)), *ranges])
    return Record(
        torch.cat([nothing, *(a for a, _, _ in rows)]), torch.cat([nothing, *(b for _, b, _ in rows)]), output,
        table[:, 0], table[:, 1],
    )  # fmt: skip


def freed(sample: Sample, z: Tensor) -> tuple[Tensor, Tensor]:
    """(pre-activations, output) for input and activations given as one flat vector, biases included."""
    n = int(np.prod(sample.input_shape))
    found: list[Tensor] = []
    taken = n

    def replace(_: nn.Module, a: Tensor, b: Tensor) -> Tensor:
        nonlocal taken
        found.append(a.flatten())
        taken += b.numel()
        return z[taken - b.numel() : taken].reshape(b.shape)

    with replaced(sample.model, replace):
        output = sample.model(z[:n].reshape(1, *sample.input_shape)).flatten()
    return torch.cat([z[:0], *found]), output


def jacobians(sample: Sample) -> tuple[Array, Array]:
    """K and Y by autograd."""
    zero = torch.zeros(sample.input_shape, dtype=torch.float64)
    z = torch.zeros(zero.numel() + record(sample, zero).pre.numel(), dtype=torch.float64)
    rows = torch.autograd.functional.jacobian(lambda v: torch.cat(freed(sample, v)), z).numpy()
    return rows[: len(z) - zero.numel()], rows[len(z) - zero.numel() :]
