"""What the validation's batches say of a classifier, read while it is validated: no second pass over the data.

Logits are only looked at. What is certified are those that the network that is bounded gives for the same inputs,
computed anew in float64 with a proved error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from lipguard.callbacks.observed import tensors_of
from lipguard.certifying.radii import ROUNDING, assumed_rounding

_MOST_ENTRIES = 2**27  # of all inputs and logits that are kept, 0.5 GB in float32


@dataclass(frozen=True, eq=False)
class Samples:
    """What one validation showed, on the CPU.

    Attributes:
        inputs: what the network read, shape (n, *input_shape).
        logits: what it returned, shape (n, classes), as it was seen.
        target: labels, shape (n,).
        rounding: the share of the largest magnitude that the logits may be off, by the precision of all that made them.
    """

    inputs: Tensor
    logits: Tensor
    target: Tensor
    rounding: float

    def __len__(self) -> int:
        return len(self.target)


class Validated:
    """Inputs, logits and labels of one validation.

    The logits are what the module returns for a batch of inputs, or what one of its parts does.

    Attributes:
        reason: why there are none, in words; empty while there may be some.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.part = ""  # which was called; the module itself has no name
        self._handles: list[Any] = []
        self._now: dict[str, tuple[Tensor, Tensor, float]] = {}
        self._found: list[Samples] = []
        self._entries = 0
        self._shape: tuple[int, ...] = ()

    def begin(self, module: nn.Module, shape: Sequence[int] | None) -> None:
        """Look at what the module, and its parts, return for inputs of a shape."""
        self.end()
        self.reason, self.part, self._found, self._entries = "", "", [], 0
        if shape is None:
            self.reason = "the input shape is not known yet"
            return
        self._shape = tuple(shape)
        for name, part in [("", module), *module.named_children()]:
            self._handles.append(part.register_forward_hook(self._watch(name, self._shape)))

    def end(self) -> None:
        """Look no further."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._now = {}

    def add(self, module: nn.Module, batch: Any) -> None:
        """The batch has been validated: keep what was seen of it, with its labels."""
        seen, self._now = self._now, {}
        if self.reason:
            return
        name = "" if "" in seen else next(iter(seen), None)
        if name is None:
            self.reason = f"validation does not call the network, or a part of it, on inputs of shape {self._shape}"
            return
        inputs, logits, rounding = seen[name]
        target = next((t for t in tensors_of(batch) if _are_labels(t, len(logits))), None)
        if target is None or logits.shape[1] < 2:
            self.reason = "the batches have no integer label for every sample, or there is one output only"
            return
        self._entries += inputs.numel() + logits.numel()
        if self._entries > _MOST_ENTRIES:
            self.reason = f"the validation has more than {_MOST_ENTRIES} numbers in its inputs and logits"
            self._found = []
            return
        self.part = name
        x, z, y = (t.to("cpu", copy=True) for t in (inputs, logits, target))  # their owner may change them
        self._found.append(Samples(x, z, y, rounding))

    def take(self) -> Samples | None:
        """All batches together, once."""
        found, self._found = self._found, []
        self.end()
        if self.reason or not found or len({own.logits.shape[1] for own in found}) > 1:
            return None
        x, z, y = (torch.cat([getattr(own, name) for own in found]) for name in ("inputs", "logits", "target"))
        return Samples(x, z, y, max(own.rounding for own in found))

    def _watch(self, name: str, shape: tuple[int, ...]) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            x = args[0] if isinstance(args, tuple) and args else None
            if issubclass(
                type(x), fx.Proxy
            ):  # another monitor reads the network; isinstance takes it for a tensor then
                return
            if not (isinstance(x, Tensor) and isinstance(output, Tensor)) or tuple(x.shape[1:]) != shape:
                return
            fits = output.dim() == 2 and len(output) == len(x) and {x.dtype, output.dtype} <= set(ROUNDING)
            if fits:
                self._now[name] = (x.detach(), output.detach(), _rounding(x, output, module))

        return look


def _rounding(x: Tensor, output: Tensor, module: nn.Module) -> float:
    """What logits may be off, by the coarsest of the formats that may have been used on the way."""
    shares = [assumed_rounding(output.detach()), ROUNDING[x.dtype]]
    shares += [ROUNDING[p.dtype] for p in module.parameters() if p.dtype in ROUNDING]
    kind = output.device.type
    if torch.is_autocast_enabled(kind):
        shares.append(ROUNDING.get(torch.get_autocast_dtype(kind), 0.0))
    return max(shares)


def _are_labels(value: Tensor, count: int) -> bool:
    plain = not value.is_floating_point() and not value.is_complex() and value.dtype != torch.bool
    return plain and value.shape == (count,)
