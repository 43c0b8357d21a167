import math
import os
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipguard.trusted import rounding

positive = st.floats(min_value=1e-100, max_value=1e100)


@given(positive, positive)
def test_scalar_operations_are_upper_bounds_of_the_exact_values(a: float, b: float) -> None:
    assert Fraction(rounding.add_up(a, b)) >= Fraction(a) + Fraction(b)
    assert Fraction(rounding.mul_up(a, b)) >= Fraction(a) * Fraction(b)
    assert Fraction(rounding.div_up(a, b)) * Fraction(b) >= Fraction(a)
    assert Fraction(rounding.sqrt_up(a)) ** 2 >= Fraction(a)


@given(positive, positive)
def test_scalar_operations_lose_next_to_nothing(a: float, b: float) -> None:
    assert rounding.mul_up(a, b) <= a * b * (1 + 1e-15)
    assert rounding.add_up(a, b) <= (a + b) * (1 + 1e-15)
    assert rounding.sqrt_up(a) <= math.sqrt(a) * (1 + 1e-15)


@given(st.integers(min_value=1, max_value=2**39))
def test_gamma_is_an_upper_bound_of_the_exact_gamma(n: int) -> None:
    exact = Fraction(n, 2**53) / (1 - Fraction(n, 2**53))
    assert exact <= Fraction(rounding.gamma_up(n)) <= exact * (1 + Fraction(1, 10**15))


def test_gamma_refuses_counts_for_which_it_means_nothing() -> None:
    with pytest.raises(ValueError, match="2\\^40"):
        rounding.gamma_up(2**52)


@given(st.floats(allow_nan=False))
def test_narrowing_to_float32_rounds_outward(value: float) -> None:
    up, down = rounding.to_float32_up(value), rounding.to_float32_down(value)
    assert down <= value <= up
    for narrowed in (up, down):
        with np.errstate(over="ignore"):
            assert float(np.float32(narrowed)) == narrowed


@pytest.mark.parametrize("value", [9.7, 0.1, 1e-50, 1e39, 16777217.0, 3.4028235677973366e38])
def test_narrowing_gives_the_neighbouring_float32(value: float) -> None:
    up, down = rounding.to_float32_up(value), rounding.to_float32_down(value)
    assert up > value > down
    with np.errstate(over="ignore"):
        assert np.nextafter(np.float32(down), np.float32(np.inf)) == np.float32(up)


def test_zero_times_anything_is_zero() -> None:
    assert rounding.mul_up(0.0, 5.0) == 0.0
    assert rounding.sqrt_up(0.0) == 0.0


def test_devices_that_round_as_ieee(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CUBLAS_EMULAT")]:
        monkeypatch.delenv(name)
    assert rounding.rounds_as_ieee("cpu")
    assert rounding.rounds_as_ieee(torch.device("cuda", 1))
    assert not rounding.rounds_as_ieee("mps")
    assert not rounding.rounds_as_ieee("xpu")
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "0")
    assert rounding.rounds_as_ieee("cuda")
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "1")
    assert not rounding.rounds_as_ieee("cuda")
    assert rounding.rounds_as_ieee("cpu")
