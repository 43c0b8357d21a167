"""Choices by a comparison: exact where both sides meet, refused where they do not."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from helpers.forward import Forward
from helpers.sandwich import assert_sandwich
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lipguard
from lipguard.errors import UnsupportedLayerError
from lipguard.trusted.layers import Activation
from lipguard.trusted.reading.trace import trace

Call = Callable[[Any, Any], Any]
SHAPE = (4,)
numbers = st.floats(-4, 4, allow_nan=False, allow_subnormal=False).map(lambda v: round(v * 64) / 64)


@given(numbers, numbers, numbers, numbers)
@settings(max_examples=8, deadline=None)
def test_where_both_lines_meet_the_bound_is_of_the_larger_slope(
    kink: float, right: float, left: float, up: float
) -> None:
    def call(m: Any, x: Any) -> Any:
        return torch.where(x > kink, right * x + (up - right * kink), left * x + (up - left * kink)) + 16 * x

    report = lipguard.certify(Forward(call), (3,))
    exact = 16 + max(right, left)
    assert exact * (1 - 1e-9) <= report.bound <= exact * (1 + 1e-6)


@given(numbers, numbers, numbers, st.sampled_from([2.0**-40, -(2.0**-30), 1e-3, 1.0]))
@settings(max_examples=30, deadline=None)
def test_a_jump_is_refused_however_small(kink: float, right: float, left: float, jump: float) -> None:
    def call(m: Any, x: Any) -> Any:
        return torch.where(x > kink, right * x - right * kink + jump, left * x - left * kink)

    with pytest.raises(UnsupportedLayerError, match="jumps"):
        trace(Forward(call), (3,))


JUMPS: dict[str, Call] = {
    "a rounding": lambda m, x: torch.where(x > 0.1, x, 4 * x - 0.3),
    "a quotient that is rounded": lambda m, x: torch.where(x > 1, x, x / 3 + (1 - 1 / 3)),
    "a quotient away from zero": lambda m, x: torch.where(x > 1, x, x / 2 + 0.5),
    "an indicator": lambda m, x: (x > 0).to(x.dtype),
    "one side": lambda m, x: x * (x > 1),
    "other entries": lambda m, x: torch.where(x > 0, x, x.flip(1)),
    "another line": lambda m, x: torch.where(m.layer(x) > 0, x, 2 * x),
    "of another layer": lambda m, x: torch.where(x > 0, m.layer(x), 2 * m.layer(x)),
    "a threshold per entry": lambda m, x: torch.where(x > torch.tensor([0.0, 0, 0, 1]), x, 2 * x),
    "constants that are rounded": lambda m, x: (0.1 * (x > 0).to(x.dtype)) * 0.3 * x,
    "a large shift": lambda m, x: torch.where(m.layer(x) + 2.0**50 > 0, 2.0**50 + x, 0 * x),
}


@pytest.mark.parametrize("case", JUMPS)
def test_what_jumps_or_may_is_refused(case: str) -> None:
    with pytest.raises(UnsupportedLayerError):
        trace(Forward(JUMPS[case], layer=nn.Linear(4, 4).double()), SHAPE)


LEAKY: dict[str, Call] = {
    "where": lambda m, x: torch.where(x > 0, x, 0.2 * x),
    "where it is not": lambda m, x: torch.where(~(x > 0), 0.2 * x, x),
    "the other way round": lambda m, x: torch.where(torch.tensor(0.0) >= x, 0.2 * x, x),
    "a mask": lambda m, x: x * (x > 0) + 0.2 * x * (x <= 0),
    "one mask": lambda m, x: (lambda above: x * above + 0.2 * x * (1 - above))((x > 0).to(x.dtype)),
    "maximum": lambda m, x: torch.maximum(x, 0.2 * x),
    "max and min": lambda m, x: x.max(torch.zeros_like(x)) + 0.2 * x.min(torch.zeros_like(x)),
    "filled": lambda m, x: x.masked_fill(x < 0, 0.0) + 0.2 * torch.min(x, torch.tensor(0.0)),
    "two rectifiers": lambda m, x: torch.relu(x) - 0.2 * torch.relu(-x),
    "two rectifiers, the other one first": lambda m, x: -0.2 * torch.relu(-x) + torch.relu(x),
    "rectifiers of multiples": lambda m, x: torch.relu(2 * x) / 2 - 0.4 * torch.relu(-0.5 * x),
    "two clamps": lambda m, x: x.clamp(min=0) + 0.2 * x.clamp(max=0),
    "a rectifier and a clamp": lambda m, x: nn.functional.relu(x) + 0.2 * torch.clamp(x, max=0.0),
    "thresholds": lambda m, x: nn.functional.threshold(x, 0.0, 0.0) - 0.2 * nn.functional.threshold(-x, 0.0, 0.0),
}


@pytest.mark.parametrize("form", LEAKY)
def test_one_function_in_every_form_has_one_bound(form: str) -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(4, 16), nn.Linear(16, 3)
    plain = lipguard.certify(nn.Sequential(first, nn.LeakyReLU(0.2), last), SHAPE).bound
    report = assert_sandwich(nn.Sequential(first, Forward(LEAKY[form]), last).double(), SHAPE)
    assert plain * (1 - 1e-4) <= report.bound <= plain * (1 + 2e-3)


def test_both_halves_of_a_value_are_no_longer_than_it() -> None:
    """CReLU: max(x, 0) and max(-x, 0) of one neuron."""
    report = assert_sandwich(Forward(lambda m, x: torch.cat([torch.relu(x), torch.relu(-x)], 1)), SHAPE)
    assert report.bound == pytest.approx(1.0, rel=1e-3)


def test_neurons_are_of_one_value_whatever_the_weights_are_now() -> None:
    """Two norms of one value, as they are before the first step and behind it."""
    model = Forward(lambda m, x: torch.relu(m.a(x)) - torch.relu(-m.b(x)), a=nn.BatchNorm1d(4), b=nn.BatchNorm1d(4))
    before = trace(model.eval(), SHAPE)
    with torch.no_grad():
        model.b.weight.mul_(2)
    assert trace(model, SHAPE).architecture == before.architecture


def test_values_of_other_weights_are_others() -> None:
    """max(b(x), 0) where a(x) is positive jumps, however alike both layers are."""
    torch.manual_seed(0)
    for make in (
        lambda: nn.Linear(4, 4),
        lambda: nn.Sequential(nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 4, 1), nn.Flatten()),
    ):
        model = Forward(lambda m, x: torch.where(m.a(x) > 0, m.b(x), 0.0), a=make(), b=make()).double()
        with pytest.raises(UnsupportedLayerError):
            trace(model, SHAPE)


class Householder(nn.Module):
    """As its authors write it (Singla et al., ICLR 2022)."""

    def __init__(self, pairs: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.linspace(0.1, 3.0, pairs).reshape(1, pairs))

    def forward(self, z: Tensor) -> Tensor:
        x, y = z.split(z.shape[1] // 2, 1)
        selector = x * torch.sin(0.5 * self.theta) - y * torch.cos(0.5 * self.theta)
        a = x * torch.cos(self.theta) + y * torch.sin(self.theta)
        b = x * torch.sin(self.theta) - y * torch.cos(self.theta)
        a, b = x * (selector <= 0) + a * (selector > 0), y * (selector <= 0) + b * (selector > 0)
        return torch.cat([a, b], 1)


def test_a_householder_layer_is_no_longer_and_says_what_is_meant() -> None:
    torch.manual_seed(0)
    first, last = (nn.utils.parametrizations.orthogonal(nn.Linear(6, 6)) for _ in range(2))
    report = assert_sandwich(nn.Sequential(first, Householder(3), last).eval().double(), (6,))
    assert 1 - 1e-6 <= report.bound <= 1 + 1e-3
    assert any("without the jumps that rounding" in note for note in report.notes)
    assert trace(Householder(3).double(), (6,)).neurons == 3  # one for both halves


def test_a_reflection_at_another_line_is_refused() -> None:
    model = Householder(3).double()
    with torch.no_grad():
        other = model.theta + 1e-6
    model.register_parameter("other", nn.Parameter(other))

    def call(m: Any, z: Any) -> Any:
        x, y = z.split(3, 1)
        selector = x * torch.sin(0.5 * m.theta) - y * torch.cos(0.5 * m.theta)
        a = x * torch.cos(m.other) + y * torch.sin(m.other)
        return torch.where(selector > 0, a, x)

    with pytest.raises(UnsupportedLayerError, match="jumps"):
        trace(Forward(call, theta=model.theta, other=model.other), (6,))


def test_a_quotient_is_within_the_slopes() -> None:
    """1 / 5 is below the float that it is rounded to."""
    (layer,) = (n.layer for n in trace(Forward(lambda m, x: torch.where(x > 0, x, x / 5)), (2,)).nodes[1:])
    assert isinstance(layer, Activation)
    assert Fraction(layer.alpha) < Fraction(1, 5) < Fraction(0.2)
    assert layer.alpha == pytest.approx(0.2, rel=1e-14)
    assert 1 < layer.beta < 1 + 1e-14


def test_slopes_are_exact_for_weights_that_floats_do_not_divide() -> None:
    """(b + a) / 2 is rounded, and counted."""
    slope = 1 / 3
    network = trace(Forward(lambda m, x: torch.where(x > 0, 0.7 * x, slope * x)), (2,))
    scales = [node.layer for node in network.nodes if type(node.layer).__name__ == "Scale"]
    halves = [(Fraction(0.7) - Fraction(slope)) / 2, (Fraction(0.7) + Fraction(slope)) / 2]
    assert len(scales) == 2
    for layer, exact in zip(scales, halves, strict=True):
        assert layer.weight_ulps == int(Fraction(float(layer.scale)) != exact)  # type: ignore[attr-defined]
