"""What the monitor reads off a trainer: the weights that checkpoints store, and what the network's inputs look like."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lipguard.callbacks.messages import Messages
from lipguard.trusted.network.digest import numbers_of

_SAMPLES = 16  # inputs of the first batch from which the lower bound starts its ascent


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
            digest.update(numbers_of(tensor).data)
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


def _is_dict(batch: Any) -> bool:
    return isinstance(batch, Mapping)


class Inputs:
    """What the network's inputs look like.

    Args:
        shape: of one input, without the batch axis, if it was given; found otherwise.
        messages: where it is told what was found.

    Attributes:
        shape: as far as it is known.
        data: a few of the first batch, on the CPU, if it has any of this shape.
        key: of the input in batches that are dicts.
    """

    def __init__(self, shape: tuple[int, ...] | None, messages: Messages) -> None:
        self._given, self._messages = shape, messages
        self.shape = shape
        self.data: Tensor | None = None
        self.key: str | None = None
        self._from_batch = False

    def begin(self) -> None:
        """A fit begins: its data are others."""
        self.data = None

    def look_at(self, module: nn.Module) -> None:
        """Take the shape of the module's example, if it has one."""
        self._from_batch = self._given is None
        example = first_input(getattr(module, "example_input_array", None))
        if self._given is None and example is not None:
            self.shape, self._from_batch = tuple(example.shape[1:]), False

    def see(self, batch: Any) -> None:
        """Keep a few inputs of the first batch."""
        if self.data is not None:
            return
        inputs = first_input(batch)
        if inputs is None:
            return
        self.key = next((str(key) for key, own in batch.items() if own is inputs), None) if _is_dict(batch) else None
        shape = tuple(inputs.shape[1:])
        if self._from_batch and shape != self.shape:
            self.shape = shape
            self._messages.tell(f"inputs have shape {shape}, as in the first training batch.")
        if shape == self.shape:
            self.data = inputs[:_SAMPLES].detach().cpu().clone()  # a slice alone would hold the whole batch

    def restore(self, shape: Sequence[int] | None) -> None:
        """The shape that a checkpoint knows, unless one was given."""
        if self._given is None and shape is not None:
            self.shape = tuple(shape)

    def known_shape(self) -> tuple[int, ...]:
        """The shape.

        Raises:
            ValueError: it is not known.
        """
        if self.shape is None:
            raise ValueError(
                "the input shape is not known, because no tensor of floats was found in the training batch. "
                f"Pass {self._messages.name}(input_shape=...) or set example_input_array."
            )
        return self.shape
