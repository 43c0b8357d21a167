"""Scalar arithmetic that errs in a known direction, and the constants of floating-point error analysis.

One IEEE operation in round-to-nearest is off by at most half a unit in the last place, so the next float above its
result is an upper bound of the exact value.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

UNIT_ROUNDOFF = 2.0**-53
SMALLEST_SUBNORMAL = 2.0**-1074
SMALLEST_NORMAL = 2.0**-1022
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


@contextmanager
def subnormal_numbers() -> Iterator[None]:
    """Keep subnormal numbers while something is proved, where the program has asked to flush them to zero."""
    flushed = SMALLEST_SUBNORMAL * 1.0 == 0
    if flushed:
        torch.set_flush_denormal(False)
    try:
        yield
    finally:
        if flushed:
            torch.set_flush_denormal(True)


def up(value: float) -> float:
    """The next float above."""
    return math.nextafter(value, math.inf)


def add_up(*terms: float) -> float:
    """Upper bound of a sum of non-negative terms."""
    total = 0.0
    for term in terms:
        total = up(total + term) if total and term else total + term  # adding zero is exact
    return total


def mul_up(*factors: float) -> float:
    """Upper bound of a product of non-negative factors; zero times anything is zero."""
    product = 1.0
    for factor in factors:
        if factor == 0:
            return 0.0
        product = up(product * factor)
    return product


def div_up(numerator: float, denominator: float) -> float:
    """Upper bound of a quotient of positive numbers."""
    return up(numerator / denominator)


def sqrt_up(value: float) -> float:
    """Upper bound of a square root."""
    return up(math.sqrt(value)) if value > 0 else 0.0


def ldexp_up(value: float, exponent: int) -> float:
    """Upper bound of value * 2^exponent, of a value that is not negative: below the normal numbers it is rounded."""
    if value == 0:
        return 0.0
    try:
        scaled = math.ldexp(value, exponent)
    except OverflowError:
        return math.inf
    return scaled if scaled >= SMALLEST_NORMAL else up(scaled)


def gamma_up(n: int) -> float:
    """Upper bound of gamma_n = n u / (1 - n u), the relative error of n roundings (Higham 2002, Lemma 3.1)."""
    if n >= 2**40:
        raise ValueError(f"Expected at most 2^40 roundings, but got {n}.")
    return div_up(n * UNIT_ROUNDOFF, 1 - n * UNIT_ROUNDOFF)


def rounds_as_ieee(device: torch.device | str) -> bool:
    """Whether sums and products of float64 on a device are rounded as the analysis of errors counts them.

    cuBLAS can be told to emulate double precision, whose errors are others; what is not a GPU of CUDA is not known.
    """
    kind = torch.device(device).type
    emulated = any(name.startswith("CUBLAS_EMULAT") and value != "0" for name, value in os.environ.items())
    return kind == "cpu" or (kind == "cuda" and not emulated)


def to_float32_up(value: float) -> float:
    """The smallest float32 value that is not below `value`."""
    if not abs(value) <= _LARGEST_FLOAT32:
        return -_LARGEST_FLOAT32 if -math.inf < value < 0 else math.inf if value > 0 else value
    narrowed = np.float32(value)
    # Compared as a float: numpy would narrow `value` first.
    return float(narrowed) if float(narrowed) >= value else float(np.nextafter(narrowed, np.float32(np.inf)))


def to_float32_down(value: float) -> float:
    """The largest float32 value that is not above `value`."""
    return -to_float32_up(-value)


def lengths(rows: Tensor) -> Tensor:
    """The 2-norms along the last axis, which is kept, of entries that are not negative, rounded up.

    Rows are divided by their largest entry, for squares of small numbers are 0.
    """
    largest = rows.amax(-1, keepdim=True)
    relative = torch.where(largest > 0, rows / largest, torch.zeros_like(rows))
    found: Tensor = largest * relative.norm(dim=-1, keepdim=True) * (1 + 2 * gamma_up(rows.shape[-1] + 8))
    return torch.where(largest > 0, found + 1e-300, found)
