"""Choices by a comparison, as in torch.where(x > 0, x, 0.2 * x): read where both values agree at the threshold.

A choice is no value by itself, for most of them jump. Sums and products with constants are carried into both of its
values, and as soon as these agree where they meet it is a function of one kink (`lines`), or a maximum.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipguard.trusted import layers
from lipguard.trusted.reading.builder import Builder, Kind, Pending, Ref, attributes
from lipguard.trusted.reading.constants import alike, hiding, met, read, scaled, shifted
from lipguard.trusted.reading.lines import bent, line_of, rationals
from lipguard.trusted.reading.maxima import larger, smaller
from lipguard.trusted.reading.reflections import reflected
from lipguard.trusted.reading.values import same


@dataclass(frozen=True)
class Choice(Pending):
    """`above` where a value is above a threshold, and `below` elsewhere; a comparison itself is one of 1 and 0."""

    value: Ref
    threshold: Any  # a value or a constant
    above: Any  # values or constants, both of them
    below: Any
    why = (
        "a choice by comparing values",
        "It has a Lipschitz constant where both choices agree at the threshold, as in torch.where(x > 0, x, 0.2 * x); "
        "elsewhere it jumps.",
    )

    def with_each(self, builder: Builder, change: Callable[[Any], Any]) -> Ref | Choice:
        """The choice of what is made of both."""
        return decided(builder, dataclasses.replace(self, above=change(self.above), below=change(self.below)))


def _compare(*, over: bool) -> Callable[..., Choice]:
    """The rule of x > y, or x < y: at y itself both are the same where a choice has a Lipschitz constant."""

    def rule(builder: Builder, x: Any, y: Any) -> Choice:
        one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        if not isinstance(x, Ref):
            return Choice(y, read(builder, x), *((zero, one) if over else (one, zero)))
        threshold = y if isinstance(y, Ref) else read(builder, y)
        return Choice(x, threshold, *((one, zero) if over else (zero, one)))

    return rule


def _where(builder: Builder, condition: Any, x: Any, y: Any) -> Any:
    """By a comparison, or by a constant mask: then a sum of products with zeros and ones."""
    if isinstance(condition, Choice):
        ends = [float(end) if isinstance(end, Tensor) and end.dim() == 0 else None for end in _ends(condition)]
        if ends not in ([1.0, 0.0], [0.0, 1.0]):
            raise builder.unsupported(f"a condition that is {condition.why[0]}", condition.why[1])
        x, y = (part if isinstance(part, Ref) else read(builder, part) for part in (x, y))
        above, below = (x, y) if ends == [1.0, 0.0] else (y, x)
        return decided(builder, dataclasses.replace(condition, above=above, below=below))
    mask = read(builder, condition)
    parts = [(x, mask), (y, 1 - mask)]
    values = [scaled(builder, part, share) for part, share in parts if isinstance(part, Ref)]
    if len(values) == 2:
        return builder.emit(layers.Add(), *alike(builder, *values))
    (constant,) = (
        torch.where(share != 0, read(builder, hiding(part)), 0.0) for part, share in parts if not isinstance(part, Ref)
    )
    return shifted(builder, values[0], constant)


def _masked_fill(builder: Builder, x: Any, mask: Any, value: Any) -> Any:
    return _where(builder, mask, value, x)


def _not(builder: Builder, x: Choice) -> Choice:
    return dataclasses.replace(x, above=x.below, below=x.above)


def _threshold(builder: Builder, x: Ref, threshold: float, value: float, inplace: bool = False) -> Any:
    """x above the threshold, and a value elsewhere."""
    found = decided(builder, Choice(x, read(builder, threshold), x, read(builder, value)))
    if isinstance(found, Choice):
        raise builder.unsupported(
            f"a threshold at {threshold} with the value {value}", "It jumps. Use the threshold as the value."
        )
    return found


def sum_with_choice(builder: Builder, x: Any, y: Any) -> Ref | Choice:
    """x + y, of which one is a choice or both."""
    if isinstance(x, Choice) and isinstance(y, Choice):
        if _question(builder, x) != _question(builder, y):
            raise builder.unsupported("a sum of choices by different comparisons", x.why[1])
        above, below = (_sum(builder, a, b) for a, b in zip(_ends(x), _ends(y), strict=True))
        return decided(builder, dataclasses.replace(x, above=above, below=below))
    choice, other = (x, y) if isinstance(x, Choice) else (y, x)
    return choice.with_each(builder, lambda part: _sum(builder, part, other))


def times_choice(builder: Builder, x: Any, y: Any) -> Ref | Choice:
    """x y, of which one is a choice: of constants where the other depends on the input."""
    choice, other = (x, y) if isinstance(x, Choice) else (y, x)
    if isinstance(other, Choice) or (isinstance(other, Ref) and any(isinstance(end, Ref) for end in _ends(choice))):
        raise builder.unsupported("the product of two values that depend on the input", choice.why[1])
    return choice.with_each(builder, lambda part: _product(builder, part, other))


def _ends(choice: Choice) -> tuple[Any, Any]:
    return choice.above, choice.below


def _question(builder: Builder, choice: Choice) -> Any:
    limit = choice.threshold
    return same(builder, choice.value), same(builder, limit) if isinstance(limit, Ref) else limit.tolist()


def _sum(builder: Builder, x: Any, y: Any) -> Any:
    if isinstance(x, Ref) and isinstance(y, Ref):
        return builder.emit(layers.Add(), *alike(builder, x, y))
    if not isinstance(x, Ref):
        x, y = y, x
    if isinstance(x, Ref):
        return shifted(builder, x, y)
    return _exact(builder, torch.add, operator.add, read(builder, x), read(builder, y))


def _product(builder: Builder, x: Any, y: Any) -> Any:
    if not isinstance(x, Ref):
        x, y = y, x
    if isinstance(x, Ref):
        return scaled(builder, x, y)
    return _exact(builder, torch.mul, operator.mul, read(builder, x), read(builder, y))


def _exact(builder: Builder, apply: Any, exactly: Any, x: Tensor, y: Tensor) -> Tensor:
    """Of two constants, where no rounding takes place, which nobody would count."""
    found: Tensor = apply(x, y)
    if bool((rationals(found) != exactly(rationals(x), rationals(y))).any()):
        raise builder.unsupported("a choice between constants that are rounded", "Multiply the value instead.")
    return found


def decided(builder: Builder, choice: Choice) -> Ref | Choice:
    """What a choice is where that is continuous; itself elsewhere."""
    if isinstance(choice.threshold, Ref):
        return _of_values(builder, choice)
    limit = line_of(builder, met(builder, choice.threshold, choice.value.shape)[0])
    parts = (end if isinstance(end, Ref) else met(builder, end, choice.value.shape)[0] for end in _ends(choice))
    value, above, below = (line_of(builder, part) for part in (choice.value, *parts))
    if (
        limit is None
        or value is None
        or above is None
        or below is None
        or {above.origin, below.origin} - {None, value.origin}
    ):
        return _of_maps(builder, choice)
    found = bent(builder, limit.shift, value, above, below)
    return choice if found is None else found


def _of_maps(builder: Builder, choice: Choice) -> Ref | Choice:
    """Between affine maps of what the value is one of, too."""
    limit, ends = choice.threshold, _ends(choice)
    if not all(isinstance(end, Ref) for end in ends) or not bool((limit == limit.flatten()[0]).all()):
        return choice
    return reflected(builder, choice.value, float(limit.flatten()[0]), *ends) or choice


def _of_values(builder: Builder, choice: Choice) -> Ref | Choice:
    """The larger of two values, or the smaller one."""
    ends = _ends(choice)
    if all(isinstance(end, Ref) for end in ends):
        above, below = (same(builder, end) for end in ends)
        values = same(builder, choice.value), same(builder, choice.threshold)
        if (above, below) == values:
            return larger(builder, *ends)
        if (below, above) == values:
            return smaller(builder, *ends)
    return choice


KINDS: tuple[Kind, ...] = (
    Kind(_compare(over=True), functions=(operator.gt, operator.ge, torch.gt, torch.ge, torch.greater, "gt", "ge")),
    Kind(_compare(over=False), functions=(operator.lt, operator.le, torch.lt, torch.le, torch.less, "lt", "le")),
    Kind(_where, functions=(torch.where,), pending=(Choice,)),
    Kind(_masked_fill, functions=(torch.masked_fill, "masked_fill", "masked_fill_"), pending=(Choice,)),
    Kind(
        _threshold,
        nn.Threshold,
        attributes("threshold", "value"),
        (F.threshold, torch.threshold),
    ),
    Kind(_not, functions=(operator.invert, torch.logical_not, "logical_not"), pending=(Choice,)),
)
