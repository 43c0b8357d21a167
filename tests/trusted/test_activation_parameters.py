"""Activations whose parameters leave the usual range: every quotient is in the range, or the parameter is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.forward import Forward
from numpy.typing import NDArray
from torch import Tensor, nn

import lipguard
from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.layers import Activation, ParameterError
from lipguard.trusted.reading.trace import trace

Wide = NDArray[np.longdouble]  # more digits and a wider range than a float, on most machines
Parameters = dict[str, float]
EPS = float(np.finfo(np.longdouble).eps)
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 5e-324, -5e-324, 1e-310, -1e-310, 1e300, -1e300, 1.7e308, 19.0, 20.0, 37.0)


def _softplus(x: Wide, beta: float, threshold: float) -> Wide:
    z = np.longdouble(beta) * x
    return (np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))) / beta


FUNCTIONS: dict[str, Callable[..., Wide]] = {
    "leaky_relu": lambda x, negative_slope: np.where(x > 0, x, np.longdouble(negative_slope) * x),
    "elu": lambda x, alpha: np.where(x > 0, x, np.longdouble(alpha) * np.expm1(np.minimum(x, 0))),
    "celu": lambda x, alpha: np.where(x > 0, x, np.longdouble(alpha) * np.expm1(np.minimum(x, 0) / alpha)),
    "softplus": _softplus,
    "softshrink": lambda x, lambd: np.sign(x) * np.maximum(np.abs(x) - lambd, 0),
    "hardtanh": lambda x, min_val, max_val: np.clip(x, min_val, max_val),
    "clamp": lambda x, low, high: np.clip(x, low, high),
    "relu6": lambda x, min_val, max_val: np.clip(x, min_val, max_val),
}
KINKS: dict[str, Callable[..., list[float]]] = {
    "softplus": lambda beta, threshold: [threshold / beta] if beta else [],
    "softshrink": lambda lambd: [-lambd, lambd],
    **{name: lambda **limits: list(limits.values()) for name in ("hardtanh", "clamp", "relu6")},
}
NAMES: dict[str, tuple[str, ...]] = {
    "leaky_relu": ("negative_slope",), "elu": ("alpha",), "celu": ("alpha",), "softplus": ("beta", "threshold"),
    "softshrink": ("lambd",), "hardtanh": ("min_val", "max_val"), "clamp": ("low", "high"),
    "relu6": ("min_val", "max_val"),
}  # fmt: skip


def _refused(kind: str, given: Parameters) -> bool:
    """Where the function has no constant, is none, or is not what torch can compute."""
    values = list(given.values())
    if kind == "celu":
        return values[0] < 2.0**-1022
    if kind == "softplus":
        return values[0] == 0 or values[1] < 20
    if kind == "softshrink":
        return values[0] < 0
    return kind in ("hardtanh", "clamp", "relu6") and values[0] > values[1]


def _draws(kind: str, count: int, seed: int) -> list[Parameters]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        values = []
        for _ in NAMES[kind]:
            wild = float(rng.choice([-1.0, 1.0]) * 10.0 ** rng.uniform(-300, 300))
            usual = float(rng.normal() * 5)
            values.append([wild, usual, float(rng.choice(SPECIAL))][rng.integers(3)])
        if kind in ("hardtanh", "clamp", "relu6") and rng.random() < 0.8:
            values.sort()
        if kind == "softplus" and rng.random() < 0.8:
            values[1] = float(20 + 10 ** rng.uniform(-3, 3))
        found.append(dict(zip(NAMES[kind], values, strict=True)))
    return found


@np.errstate(over="ignore")
def _points(kind: str, given: Parameters, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Everywhere, on all scales, and next to kinks and thresholds."""
    sizes = 10.0 ** np.concatenate([rng.uniform(-320, 300, count // 4), rng.uniform(-3, 3, count // 4)])
    scale = abs(next(iter(given.values())))
    own = rng.normal(size=count // 4) * np.clip(scale if kind == "celu" else 1 / max(scale, 1e-300), 1e-300, 1e300)
    anchors = [0.0, *(k for k in KINKS.get(kind, lambda **_: [])(**given) if math.isfinite(k))]
    away = [
        10.0 ** rng.uniform(-16, 0, count // 4) * rng.choice([-1, 1], count // 4) * max(abs(k), 1e-300) for k in anchors
    ]
    near = np.concatenate([*(k + step for k, step in zip(anchors, away, strict=True)), anchors])
    x = np.concatenate([sizes * rng.choice([-1, 1], len(sizes)), own, near])
    return rng.permutation(x[np.isfinite(x)])


@np.errstate(all="ignore")
def _assert_within(kind: str, given: Parameters, u: Wide, v: Wide, alpha: Any, beta: Any) -> int:
    """Quotients in [alpha, beta] but for their rounding; returns how many of them show nine digits."""
    f = FUNCTIONS[kind]
    most = np.maximum(np.abs(alpha), np.abs(beta)).astype(np.longdouble)
    fu, fv = f(u, **given), f(v, **given)
    quotient = (fu - fv) / (u - v)
    slack = 64 * EPS * (np.abs(fu) + np.abs(fv) + most * (np.abs(u) + np.abs(v))) / np.abs(u - v)
    known = np.isfinite(quotient) & np.isfinite(slack) & (np.abs(u - v) > 1e-318)
    assert bool(((quotient >= alpha - slack) & (quotient <= beta + slack))[known].all()), (kind, given)
    return int((slack <= 1e-9 * np.maximum(most, 1e-300))[known].sum())


@pytest.mark.parametrize("kind", FUNCTIONS)
@np.errstate(over="ignore")
def test_quotients_of_any_parameter_lie_in_the_range_or_it_is_refused(kind: str) -> None:
    shown, tried = 0, 0
    for number, given in enumerate(_draws(kind, 60, 0)):
        if _refused(kind, given):
            with pytest.raises(ParameterError):
                getattr(layers, kind)(**given)
            continue
        layer: Activation = getattr(layers, kind)(**given)
        rng = np.random.default_rng(number)
        x = _points(kind, given, 8000, rng).astype(np.longdouble)
        near = np.where(rng.random(len(x)) < 0.5, x * (1 + 10.0 ** rng.uniform(-6, 1, len(x))), rng.permutation(x))
        shown += _assert_within(kind, given, x, near, np.float64(layer.alpha), np.float64(layer.beta))
        tried += len(x)
    assert tried > 150_000
    assert shown > 0.5 * tried


@pytest.mark.parametrize("kind", [kind for kind in FUNCTIONS if kind != "celu"])
@np.errstate(over="ignore")
def test_quotients_within_intervals_of_any_parameter(kind: str) -> None:
    for number, given in enumerate(_draws(kind, 60, 1)):
        if _refused(kind, given):
            continue
        layer: Activation = getattr(layers, kind)(**given)
        assert layer.within is not None
        rng = np.random.default_rng(number)
        x = _points(kind, given, 4000, rng)
        y = np.where(rng.random(len(x)) < 0.7, rng.permutation(x), x * (1 + 10.0 ** rng.uniform(-3, 0, len(x))))
        low, high = np.minimum(x, y), np.maximum(x, y)
        kept = np.isfinite(low) & np.isfinite(high)
        low, high = low[kept], high[kept]
        found = layer.within(torch.from_numpy(low), torch.from_numpy(high))
        alpha, beta = (end.clamp(layer.alpha, layer.beta).numpy() for end in found)
        wide = low.astype(np.longdouble), high.astype(np.longdouble)
        for _ in range(3):
            share = [np.where(rng.random(len(low)) < 0.3, rng.integers(0, 2, len(low)), rng.random(len(low)))
                     for _ in range(2)]  # fmt: skip
            u, v = (np.clip(wide[0] + (wide[1] - wide[0]) * part, *wide) for part in share)
            _assert_within(kind, given, u, v, alpha, beta)


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_the_function_that_is_bounded_is_the_one_that_torch_computes(kind: str) -> None:
    """But for a jump that is named, which is beyond nine digits."""
    for given in _draws(kind, 60, 2):
        if _refused(kind, given):
            continue
        function = getattr(layers, kind)(**given).function
        x = torch.linspace(-90, 90, 2001, dtype=torch.float64)
        with np.errstate(all="ignore"):
            expected = FUNCTIONS[kind](x.numpy().astype(np.longdouble), **given)
        found = function(x).numpy()
        known = np.isfinite(found) & (np.abs(expected) < 1e300)
        assert (np.abs(found - expected) <= 1e-9 * (np.abs(expected) + np.abs(x.numpy())))[known].all(), given


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.CELU(alpha=-1.0), "CELU has alpha=-1, .* grows without bound"),
        (nn.CELU(alpha=1e-320), "CELU has alpha=.* divides"),
        (nn.CELU(alpha=math.inf), "alpha of CELU is inf"),
        (nn.ELU(alpha=math.nan), "alpha of ELU is nan"),
        (nn.ELU(alpha=-math.inf), "alpha of ELU is -inf"),
        (nn.LeakyReLU(math.inf), "negative_slope of LeakyReLU is inf"),
        (nn.LeakyReLU(math.nan), "negative_slope of LeakyReLU is nan"),
        (nn.Softplus(beta=0.0), "Softplus has beta=0"),
        (nn.Softplus(beta=math.nan), "beta of Softplus is nan"),
        (nn.Softplus(beta=math.inf), "beta of Softplus is inf"),
        (nn.Softplus(threshold=1.0), "Softplus has threshold=1, where it jumps by 0.31, .* Set threshold=20 or more"),
        (nn.Softplus(threshold=19.99), "Softplus has threshold=19.99"),
        (nn.Softplus(threshold=-5.0), "Softplus has threshold=-5"),
        (nn.Softplus(threshold=math.nan), "threshold of Softplus is nan"),
        (Forward(lambda m, x: F.hardtanh(x, math.nan, 1.0)), "min_val of Hardtanh is nan"),
        (Forward(lambda m, x: x.clamp(max=math.nan)), "max of clamp is nan"),
        (Forward(lambda m, x: x.clamp(2, 1)), "clamp has min=2 above max=1"),
        (Forward(lambda m, x: x.clamp(min=math.inf)), "min of clamp is inf"),
        (nn.PReLU(init=math.inf), "entries of its weight are NaN or infinite"),
        (nn.Softshrink(-0.5), "lambda"), (nn.GELU("sigmoid"), "approximate"),
    ],
)  # fmt: skip
def test_parameters_without_a_constant_are_refused_in_one_line(module: nn.Module, message: str) -> None:
    with pytest.raises(InvalidNetworkError, match=message) as caught:
        trace(nn.Sequential(nn.Linear(3, 3), module).double().eval(), (3,))
    assert str(caught.value).startswith("1")
    assert "\n" not in str(caught.value)


def test_parameters_of_other_types_are_refused() -> None:
    vector = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(TypeError, match="min of clamp is a Tensor, where a number is expected"):
        layers.clamp(vector, 1.0)


CALLS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "leaky_relu": lambda x, v: F.leaky_relu(x, v),
    "elu": lambda x, v: F.elu(x, v),
    "celu": lambda x, v: F.celu(x, v),
    "softplus": lambda x, v: F.softplus(x, v, 30),
    "softshrink": lambda x, v: F.softshrink(x, v),
    "hardtanh": lambda x, v: F.hardtanh(x, -v, v),
    "clamp": lambda x, v: torch.clamp(x, max=v),
}


@pytest.mark.parametrize("kind", CALLS)
def test_tensors_of_no_axis_numbers_of_numpy_and_integers_are_numbers(kind: str) -> None:
    x = torch.linspace(-3, 3, 50, dtype=torch.float64)
    expected = trace(Forward(lambda m, x: CALLS[kind](x, 0.5)), (3,)).nodes[1].layer
    layer = trace(Forward(lambda m, x: CALLS[kind](x, m.value), value=torch.tensor(0.5)), (3,)).nodes[-1].layer
    assert isinstance(layer, Activation)
    assert isinstance(expected, Activation)
    assert (layer.name, layer.alpha, layer.beta) == (expected.name, expected.alpha, expected.beta)
    assert torch.equal(layer.function(x), expected.function(x))
    given = dict.fromkeys(NAMES[kind], 32)
    for number in (int, np.float32, np.float64, np.int64, torch.tensor):
        made = getattr(layers, kind)(**{name: number(value) for name, value in given.items()})
        assert torch.equal(made.function(x), getattr(layers, kind)(**dict.fromkeys(NAMES[kind], 32.0)).function(x))


def test_the_limits_of_a_relu6_are_those_that_it_holds() -> None:
    module = nn.ReLU6()
    module.max_val = 60.0
    layer = trace(nn.Sequential(nn.Linear(1, 1), module).double().eval(), (1,)).nodes[2].layer
    assert isinstance(layer, Activation)
    at = torch.tensor([30.0], dtype=torch.float64)
    assert float(layer.function(at)) == 30
    assert layer.within is not None
    assert float(layer.within(at, at + 1)[0]) == 1.0


class Falling(nn.Module):
    """softplus(x) - 2 x, whose slope is sigmoid(-x) - 2 for beta = -1."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.bent, self.two = nn.Linear(1, 1), nn.Softplus(beta=-1.0), nn.Linear(1, 1)
        for layer, weight in ((self.one, 1.0), (self.two, 2.0)):
            nn.init.constant_(layer.weight, weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.bent(self.one(x)) - self.two(x)


def test_a_softplus_that_falls_is_bounded_on_a_domain() -> None:
    model = Falling().double().eval()
    report = lipguard.certify(model, (1,), domain=lipguard.Box(-3.0, -1.0))
    steepest = 2 - 1 / (1 + math.exp(-1))  # at -1
    assert report.restricted is not None
    assert steepest <= report.restricted.bound <= steepest * (1 + 1e-6)
    assert report.restricted.lower_bound <= steepest


def test_a_named_jump_is_in_the_notes_and_nowhere_else() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Softplus(), nn.Linear(2, 2), nn.Softplus(), nn.Softplus(2.0, 40)).eval()
    report = lipguard.certify(model, (2,))
    assert report.notes == trace(model, (2,)).notes
    assert len(report.notes) == 2
    assert report.notes[0].startswith("1, 3: softplus without its threshold")
    assert "beta x > 20, at most 2.1e-09 away" in report.notes[0]
    assert report.notes[1].startswith("4: ")
    assert str(report).splitlines()[-2:] == [f"note: {note}" for note in report.notes]
    for quiet in (nn.Softplus(threshold=math.inf), nn.ReLU()):
        assert trace(nn.Sequential(nn.Linear(2, 2), quiet).eval(), (2,)).notes == ()


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (math.nan, 1.0), (0.0, math.inf), (-math.inf, 0.0)])
def test_slopes_that_are_no_range_make_no_activation(alpha: float, beta: float) -> None:
    with pytest.raises(ValueError, match="finite slopes in order"):
        Activation("mine", alpha, beta, torch.relu)


def test_a_group_has_slopes_of_both_signs() -> None:
    with pytest.raises(ValueError, match="groups with slopes"):
        Activation("mine", 0.0, 1.0, torch.relu, 2)
