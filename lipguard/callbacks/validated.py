"""What the validation's batches say of a classifier, read while it is validated: no second pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lipguard.callbacks.observed import tensors_of
from lipguard.margins import Margins
from lipguard.metrics.certified_accuracy import CertifiedAccuracy
from lipguard.network.private import in_eval_mode

_MOST_ENTRIES = 2**26  # of all logits that are kept
_CURVE = 50  # steps of radius
_COMPARED = 4  # samples on which a part of the module is compared with the whole


class Validated:
    """Logits and labels of one validation.

    The logits are what the module returns for a batch of inputs, or what one of its parts does; `agrees` tells whether
    they are those of the network that is bounded.

    Attributes:
        reason: why there are none, in words; empty while there may be some.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._handles: list[Any] = []
        self._now: dict[str, tuple[Tensor, Tensor]] = {}
        self._first: tuple[str, Tensor, Tensor] | None = None  # (part, inputs, logits) of a few samples
        self._found: list[tuple[Tensor, Tensor]] = []
        self._entries = 0
        self._shape: tuple[int, ...] = ()

    def begin(self, module: nn.Module, shape: Sequence[int] | None) -> None:
        """Look at what the module, and its parts, return for inputs of a shape."""
        self.end()
        self.reason, self._found, self._entries, self._first = "", [], 0, None
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
        inputs, logits = seen[name]
        target = next((t for t in tensors_of(batch) if _are_labels(t, len(logits))), None)
        if target is None or logits.shape[1] < 2:
            self.reason = "the batches have no integer label for every sample, or there is one output only"
            return
        if self._first is None:
            self._first = (name, inputs[:_COMPARED].clone(), logits[:_COMPARED].clone())
        self._entries += logits.numel()
        if self._entries > _MOST_ENTRIES:
            self.reason = f"the validation has more than {_MOST_ENTRIES} logits"
            self._found = []
            return
        self._found.append((logits.float().cpu(), target.cpu()))

    def agrees(self, model: nn.Module) -> bool:
        """Whether the logits are those of the network that is bounded, on a few samples; `reason` says if not."""
        if self._first is None:
            return False
        name, inputs, logits = self._first
        try:
            with torch.no_grad():
                whole = in_eval_mode(model)(inputs)
            same = isinstance(whole, Tensor) and torch.allclose(whole.float(), logits.float(), rtol=1e-2, atol=1e-3)
        except Exception:  # whatever the module's own forward raises
            same = False
        if not same:
            called = name or "the module"
            self.reason = f"validation calls {called}, which does not return what the network that is bounded does"
        return same

    def take(self) -> tuple[Tensor, Tensor] | None:
        """(logits, target) of all batches, once."""
        found, self._found = self._found, []
        self.end()
        if self.reason or not found or len({logits.shape[1] for logits, _ in found}) > 1:
            return None
        logits, targets = zip(*found, strict=True)
        return torch.cat(logits), torch.cat(targets)

    def _watch(self, name: str, shape: tuple[int, ...]) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            x = args[0] if isinstance(args, tuple) and args else None
            if not (isinstance(x, Tensor) and isinstance(output, Tensor)) or tuple(x.shape[1:]) != shape:
                return
            if output.dim() == 2 and len(output) == len(x) and output.is_floating_point():
                self._now[name] = (x.detach(), output.detach())

        return look


def _are_labels(value: Tensor, count: int) -> bool:
    plain = not value.is_floating_point() and not value.is_complex() and value.dtype != torch.bool
    return plain and value.shape == (count,)


def certified_counts(
    logits: Tensor, target: Tensor, margins: Margins, epsilons: Sequence[float], input_std: float
) -> tuple[Tensor, tuple[list[float], list[float]]]:
    """What margins say of samples.

    Returns:
        (counts, curve): (samples, right ones, those certified at every epsilon, sum of the radii), to be added over
        processes; and (radii, shares) of this process.
    """
    metric = CertifiedAccuracy(epsilons, logits.shape[1], input_std)
    metric.update(logits, target, margins=margins)
    n = len(logits)
    shares = [metric.accuracy()[None], metric.curve(epsilons), metric.average_radius()[None]]
    counts = torch.cat([torch.tensor([float(n)]), *(n * share.cpu() for share in shares)]).double()
    furthest = 2 * max(*epsilons, float(metric.average_radius()))
    radii = [furthest * k / _CURVE for k in range(_CURVE + 1)]
    return counts, (radii, metric.curve(radii).tolist())
