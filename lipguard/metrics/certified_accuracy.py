"""Certified accuracy as a torchmetrics metric: samples whose prediction no step of a given length can change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from lipguard.certifying.margins import Margins
from lipguard.errors import ConfigError


class CertifiedAccuracy(Metric):
    r"""The share of samples that are classified rightly, and provably still are after any step of l2 length epsilon.

    A sample with the logits :math:`f` of class :math:`i` is certified where

    .. math:: \min_{j \ne i} \frac{f_i - f_j}{L_{ij}} > \epsilon

    with certified Lipschitz constants :math:`L_{ij}` of the margins; a tie is not. Logits are rounded, so what both
    may be off is taken from the difference: ``error`` where it is given, a proved bound, or else an assumption that
    goes by their precision. Every logit is then taken to be off by at most so much of the largest magnitude among the
    sample's: 2^-40 in float64, 2^-13 in float32 (2^-9 where TF32 may have been used), 2^-6 in float16, 2^-3 in
    bfloat16. Logits that all fit a narrower format, such as ``z.float()`` after autocast, count as of that one.

    As input to ``forward`` and ``update`` the metric accepts the following input:

    - ``logits`` (:class:`~torch.Tensor`): shape ``(n, num_classes)``.
    - ``target`` (:class:`~torch.Tensor`): integers of shape ``(n,)``.
    - ``bound``: the network's certified Lipschitz constant, e.g. ``report.bound``; margins have sqrt(2) times it.
    - ``margins``: `lipguard.certifying.margins.Margins` in its place, which are tighter.
    - ``error``: how far the logits are from exact ones at most, a number or of shape ``(n,)`` or ``(n, num_classes)``.

    As output of ``forward`` and ``compute`` the metric returns the following output:

    - a scalar for one epsilon, or a vector with one share per epsilon.

    Args:
        epsilon: radius, or several of them, in units of the input before it is normalised (see `input_std`).
        num_classes: number of logits.
        input_std: what the data were divided by, a number or one per channel: distances in the network's own input are
            so many times larger. Not needed where the normalisation is a layer of the network.
        kwargs: additional keyword arguments of :class:`torchmetrics.Metric`.

    Raises:
        ConfigError: an argument is out of its range.
        ValueError: on ``update``, if shapes do not fit or neither or both of ``bound`` and ``margins`` are given.

    Example:
        >>> import torch
        >>> from lipguard.metrics import CertifiedAccuracy
        >>> metric = CertifiedAccuracy(epsilon=[0.1, 0.5], num_classes=2)
        >>> logits = torch.tensor([[2.0, 0.0], [0.6, 0.0], [0.0, 1.0]])
        >>> metric.update(logits, torch.tensor([0, 0, 0]), bound=1.0)
        >>> metric.compute()
        tensor([0.6667, 0.3333])
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    radii: list[Tensor] | Tensor

    def __init__(
        self,
        epsilon: float | Sequence[float] = 0.25,
        num_classes: int = 10,
        input_std: float | Sequence[float] = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.epsilons = checked_epsilons(epsilon)
        self._single = isinstance(epsilon, (int, float))
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
            raise ConfigError(f"Expected num_classes to be at least 2, but got {num_classes!r}.")
        self.num_classes = num_classes
        self.input_std = smallest_std(input_std)
        self.add_state("radii", [], dist_reduce_fx="cat")  # of every sample; negative where the prediction is wrong

    def update(
        self,
        logits: Tensor,
        target: Tensor,
        bound: float | Tensor | None = None,
        margins: Margins | None = None,
        error: Tensor | float | None = None,
    ) -> None:
        """Add samples.

        Args:
            logits: shape (n, num_classes).
            target: integers, shape (n,).
            bound: certified Lipschitz constant of the network that made the logits.
            margins: its margins' constants.
            error: a proved bound of how far the logits are from exact ones, if there is one.
        """
        if (bound is None) == (margins is None):
            raise ValueError("Expected either bound or margins.")
        if logits.dim() != 2 or logits.shape[1] != self.num_classes or target.shape != logits.shape[:1]:
            raise ValueError(
                f"Expected logits of shape (n, {self.num_classes}) and target of shape (n,), but got "
                f"{tuple(logits.shape)} and {tuple(target.shape)}."
            )
        if margins is None:
            value = float(bound)  # type: ignore[arg-type]
            if not value >= 0:
                raise ValueError(f"Expected bound to be a number that is not negative, but got {value}.")
            margins = Margins.of_bound(value, self.num_classes)
        assert isinstance(self.radii, list)
        self.radii.append(signed_radii(logits, target, margins, self.input_std, error).to(self.device))

    def compute(self) -> Tensor:
        """The share that is certified at each epsilon."""
        shares = self.curve(self.epsilons)
        return shares[0] if self._single else shares

    def accuracy(self) -> Tensor:
        """The share that is classified rightly."""
        return self._mean(self._all() >= 0)

    def curve(self, radii: Sequence[float] | Tensor) -> Tensor:
        """The share that is certified at every one of some radii."""
        found = self._all()
        return torch.stack([self._mean(found > float(radius)) for radius in radii])

    def average_radius(self) -> Tensor:
        """The average certified radius, wrong predictions counted as 0 (Zhai et al., 2020)."""
        return self._mean(self._all().clamp_min(0.0))

    def _all(self) -> Tensor:
        found = self.radii
        if isinstance(found, list) and not found:
            return torch.zeros(0, dtype=torch.float64, device=self.device)
        return dim_zero_cat(found)

    @staticmethod
    def _mean(values: Tensor) -> Tensor:
        return values.double().mean().float() if len(values) else torch.tensor(math.nan, device=values.device)

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot a single or multiple values from the metric, see :class:`torchmetrics.Metric`."""
        return self._plot(val, ax)


def signed_radii(
    logits: Tensor, target: Tensor, margins: Margins, input_std: float = 1.0, error: Tensor | float | None = None
) -> Tensor:
    """The certified radius of every sample in units of the data, rounded down, and -1 where its prediction is wrong.

    Args:
        logits: shape (n, classes).
        target: integers, shape (n,).
        margins: constants of the network's margins.
        input_std: the smallest number that the data were divided by.
        error: as for `Margins.certified_radius`.

    Returns:
        Shape (n,), float64.
    """
    found = input_std * margins.certified_radius(logits, error)
    found = torch.nextafter(found, torch.zeros_like(found))
    return torch.where(logits.argmax(1) == target, found, -torch.ones_like(found))


def checked_epsilons(epsilon: float | Sequence[float]) -> tuple[float, ...]:
    """One radius or several, as a tuple.

    Raises:
        ConfigError: one is not a number, or negative, or there is none.
    """
    found = _several(epsilon)
    known = [isinstance(e, (int, float)) and not isinstance(e, bool) and 0 <= e < math.inf for e in found]
    if not found or not all(known):
        raise ConfigError(f"Expected epsilon to be a radius of at least 0, or several, but got {epsilon!r}.")
    return tuple(float(e) for e in found)


def smallest_std(input_std: float | Sequence[float]) -> float:
    """What a distance in the network's input is multiplied by, at least, for one in the data before normalisation.

    Raises:
        ConfigError: it is not positive.
    """
    values = _several(input_std)
    if not values or not all(isinstance(v, (int, float)) and 0 < v < math.inf for v in values):
        raise ConfigError(f"Expected input_std to be positive, a number or one per channel, but got {input_std!r}.")
    return float(min(values))


def _several(value: Any) -> tuple[Any, ...]:
    try:
        return tuple(value)
    except TypeError:  # one
        return (value,)
