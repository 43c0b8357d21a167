"""What the monitor reads off a trainer: the weights that checkpoints store, and what the network's inputs look like."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def is_a(value: object, *names: str) -> bool:
    """By class name: the classes of the two Lightning namespaces, and of all versions, cannot all be imported."""
    return any(base.__name__ in names for base in type(value).__mro__)


def stored_module(trainer: Any, pl_module: nn.Module) -> nn.Module:
    """The module whose weights a checkpoint stores: the average, if a WeightAveraging callback keeps one."""
    for callback in trainer.callbacks:
        if is_a(callback, "WeightAveraging"):
            average = getattr(callback, "_average_model", None)
            if average is not None:
                module: nn.Module = average.module
                return module
    return pl_module


def fingerprint(module: nn.Module) -> str:
    """Hash of all parameters and buffers, empty if one has no bytes to read (sparse, quantised, sharded).

    Version counters would be cheaper, but they do not see writes through ``.data``.
    """
    digest = hashlib.sha256()
    for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        try:
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        except (RuntimeError, TypeError, NotImplementedError):
            return ""
    return digest.hexdigest()


def first_input(batch: Any) -> Tensor | None:
    """The first tensor of floats with a batch axis and at least one more: labels and lengths are neither."""
    return next((t for t in tensors_of(batch) if t.is_floating_point() and t.dim() >= 2 and t.numel()), None)


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """All tensors of a batch, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        yield from itertools.chain.from_iterable(map(tensors_of, batch.values()))
    elif isinstance(batch, Sequence) and not isinstance(batch, str):
        yield from itertools.chain.from_iterable(map(tensors_of, batch))
