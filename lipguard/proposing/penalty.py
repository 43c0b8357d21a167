"""A penalty on the Lipschitz constant: the value of LipSDP's relaxation, differentiable in the weights.

`loss = cross_entropy + lam * penalty()` costs one forward and one backward pass of a few vectors per step. No solver
and no proof is in the step; the value is an estimate from below of the bound that `certify` would prove.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lipguard.errors import ConfigError
from lipguard.proposing.relaxation import LiveNetwork, Relaxation
from lipguard.trusted.reading.choice import Key, Reading


class LipschitzPenalty:
    """The relaxation's value for a module as it is at every call.

    Its gradient reaches the weights as that of any loss; the backward pass is at the same time a step of the iteration
    that keeps the vectors of the relaxation up to date, so it is to be called, and differentiated, about once per
    training step. What it returns is not a bound.

    Args:
        model: what is trained. It is read in eval mode: batch norm takes its running statistics, dropout is off.
        input_shape: of one sample, without the batch axis.
        vectors: more are more exact, and cost as many samples of a batch.
        every: compute it at every so many calls only, and return so many times the value there and zero in between: the
            same penalty on average, at a fraction of the time.
        warm_up: steps of the iteration before the first value.
        seed: of the vectors' start.
        output, input, fixed: which function of the module, as for `certify`.

    Raises:
        UnsupportedLayerError, InvalidNetworkError: as `certify`.
        ConfigError: an argument is out of its range.

    Example:
        >>> import torch
        >>> from lipguard import LipschitzPenalty
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> penalty = LipschitzPenalty(model, input_shape=(4,))
        >>> loss = model(torch.randn(16, 4)).square().mean() + 0.01 * penalty()
        >>> loss.backward()
    """

    def __init__(
        self,
        model: nn.Module,
        input_shape: Sequence[int],
        vectors: int = 6,
        every: int = 1,
        warm_up: int = 20,
        seed: int = 0,
        *,
        output: Key | None = None,
        input: Key | None = None,
        fixed: Mapping[Key, Any] | None = None,
    ) -> None:
        numbers = (("vectors", vectors, 1), ("every", every, 1), ("warm_up", warm_up, 0), ("seed", seed, 0))
        for name, value, least in numbers:
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"Expected {name} to be an integer of at least {least}, but got {value!r}.")
        reading = Reading(output, input, {} if fixed is None else fixed)
        self._network = LiveNetwork(model, input_shape, reading)
        self._relaxation = Relaxation(self._network, vectors, warm_up, seed)
        self.every, self._calls = every, 0

    def __call__(self) -> Tensor:
        """The value, a scalar on the weights' device."""
        self._calls += 1
        if (self._calls - 1) % self.every:
            own = next((p for p in self._network.model.parameters()), torch.zeros(()))
            return torch.zeros((), dtype=own.dtype, device=own.device)
        with self._plainly():
            value = self._relaxation.value()
            return value if self.every == 1 else self.every * value

    def estimate(self) -> float:
        """The value as a number, and one step of the iteration: for curves, where nothing is differentiated."""
        with self._plainly():
            return self._relaxation.step()

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        kind = next((p.device.type for p in self._network.model.parameters()), "cpu")
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(kind, enabled=False):
            yield
