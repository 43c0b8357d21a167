from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from helpers.networks import MaxMin
from torch import Tensor, nn

import lipguard
from lipguard.certifying import lower_bound as robustness
from lipguard.certifying import reporting
from lipguard.certifying.lower_bound import ascend, lower_bound
from lipguard.certifying.starts import promising, random_points
from lipguard.errors import CertificateError
from lipguard.trusted import layers
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.trace import trace


def test_a_linear_network_has_its_norm_as_lower_bound() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(7, 4).double()
    exact = float(torch.linalg.matrix_norm(layer.weight.detach(), 2))
    found = lower_bound(trace(layer, (7,)))
    assert exact * 0.99 <= found <= exact


def test_ascent_finds_more_than_the_starting_points_hold() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3)).double()
    network = trace(model, (6,))
    start = random_points((6,), None, 0, 1e-3)
    assert ascend(network, start, 0, 10)[0] > 1.02 * ascend(network, start, 0, 1)[0]


@pytest.mark.parametrize("scale", [0.02, 300.0])
def test_what_is_seen_at_other_scales_of_the_input_only_is_found(scale: float) -> None:
    """A slope of 5 between two kinks, between which no standard normal point lies."""
    first, second = nn.Linear(1, 2, dtype=torch.float64), nn.Linear(2, 1, dtype=torch.float64)
    with torch.no_grad():
        first.weight.fill_(1.0)
        first.bias.copy_(torch.tensor([-scale, -1.5 * scale]))
        second.weight.copy_(torch.tensor([[5.0, -5.0]]))
    network = trace(nn.Sequential(first, nn.ReLU(), second), (1,))
    assert ascend(network, random_points((1,), None, 0, 1e-3), 0, 1)[0] == 0.0
    assert lower_bound(network) == pytest.approx(5.0, rel=1e-6)


def test_the_search_finds_what_lies_between_small_polyhedra() -> None:
    """Beside plain sampling of many times as many points, at the same scales."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    generator = torch.Generator().manual_seed(7)
    scales = 10 ** (5 * torch.rand(40_000, 1, generator=generator, dtype=torch.float64) - 2)
    J, h = torch.eye(4, dtype=torch.float64), scales * torch.randn(40_000, 4, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for layer in model:
            h = layer(h)
            J = layer.weight @ J if isinstance(layer, nn.Linear) else J * (h > 0)[:, :, None]
    sampled = float(torch.linalg.matrix_norm(J, 2).max())
    for seed in range(3):
        assert lower_bound(trace(model, (4,)), seed=seed) >= 0.99 * sampled


def test_a_search_takes_no_more_points_than_its_work_allows() -> None:
    seen: list[int] = []

    def score(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return x.flatten(1).norm(dim=1)

    start = random_points((3,), None, 0, 1e-3)
    assert len(promising(score, start, 100.0, 0, 1e3, math.inf)) == 0
    assert not seen
    found = promising(score, start, 100.0, 0, 1e6, math.inf)
    assert 0 < sum(seen[1:]) <= 1e6 / 600
    assert found.norm(dim=1).min() > start.norm(dim=1).max()
    seen.clear()
    promising(score, start, 1.0, 0, 1e6, -math.inf)  # late: one round
    assert len(seen) == 2


def test_data_is_where_the_search_starts() -> None:
    """A bump far from the origin that only the data show."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Tanh()).double()
    with torch.no_grad():
        model[0].weight.fill_(5.0)
        model[0].bias.fill_(-5000.0)
    network = trace(model, (1,))
    data = torch.full((3, 1), 1000.0, dtype=torch.float64) + torch.tensor([[-0.01], [0.0], [0.01]])
    assert lower_bound(network) < 1e-6
    assert lower_bound(network, data, steps=1) == pytest.approx(5.0, rel=0.05)


def test_the_kink_at_zero_is_not_mistaken_for_a_slope() -> None:
    """2 x - relu(x) + relu(-x) is x, but automatic differentiation says 2 at zero."""

    class Identity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.minus, self.one = (nn.Linear(1, 1, bias=False) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            positive = self.minus(torch.relu(x))
            return self.twice(x) + positive + torch.relu(self.one(x))

    model = Identity().double()
    with torch.no_grad():
        for layer, weight in ((model.twice, 2.0), (model.minus, -1.0), (model.one, -1.0)):
            layer.weight.fill_(weight)
    zeros = torch.zeros(4, 1, dtype=torch.float64)
    assert lower_bound(trace(model, (1,)), zeros) <= 1.0


def test_the_same_seed_gives_the_same_number() -> None:
    torch.manual_seed(0)
    network = trace(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)), (6,))
    assert lower_bound(network, seed=3) == lower_bound(network, seed=3)


def test_the_global_random_state_is_left_alone() -> None:
    network = trace(nn.Linear(3, 3), (3,))
    before = torch.get_rng_state()
    lower_bound(network)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 2, 1)], ids=str)
def test_the_derivative_of_max_pooling_is_that_of_the_module(pool: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(2, 2, 2)).double().eval()
    network = trace(model, (1, 6, 6))
    x, v = torch.randn(2, 5, 1, 6, 6, dtype=torch.float64)
    slopes, _ = robustness._slopes(network, x)
    found = robustness._jacobian_times(network, slopes, v)
    _, expected = torch.autograd.functional.jvp(model, x, v)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_rounded_derivative_of_torch_is_no_contradiction(dtype: torch.dtype, depth: int) -> None:
    """Torch's derivative of hardsigmoid is the float32 above 1/6, in double precision, too."""
    model = nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(1, 1), nn.Hardsigmoid()))).to(dtype).eval()
    for layer in model[::2]:
        nn.init.ones_(layer.weight)  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    report = lipguard.certify(model, (1,))
    assert 0.99 * 6.0**-depth < report.lower_bound <= 6.0**-depth < report.bound


class Steeper(nn.Module):
    """Twice as steep as it is registered, far from where samples are taken."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 1e4, 2 * x - 1e4, x)


def test_a_slope_outside_of_its_range_is_a_contradiction_that_is_named() -> None:
    network = trace(nn.Sequential(nn.Linear(1, 1), nn.ReLU()).double().eval(), (1,))
    *before, last = network.nodes
    wrong = dataclasses.replace(layers.leaky_relu(0.5), beta=0.999)
    with pytest.raises(CertificateError, match=r"1: leaky_relu has the slope 1\.0 .* its range \[0\.5, 0\.999\]"):
        lower_bound(Network((*before, dataclasses.replace(last, layer=wrong))))
    nearly = dataclasses.replace(wrong, beta=1 - 1e-7)
    assert lower_bound(Network((*before, dataclasses.replace(last, layer=nearly)))) > 0


def test_a_registered_slope_that_the_data_disprove_is_named() -> None:
    lipguard.register(Steeper, slope=(0.0, 1.0))
    model = nn.Sequential(nn.Linear(1, 1), Steeper()).double().eval()
    nn.init.ones_(model[0].weight)  # type: ignore[arg-type]
    with pytest.raises(CertificateError, match=r"1: Steeper has the slope 2\.0"):
        lipguard.certify(model, (1,), data=torch.full((4, 1), 1e5, dtype=torch.float64))


def exact_gain(weights: list[Tensor], v: Tensor) -> float:
    """|W_k .. W_1 v| / |v| in rational arithmetic, but for the last root."""
    first = image = [Fraction(x) for x in v.tolist()]
    for weight in weights:
        image = [
            sum((Fraction(w) * x for w, x in zip(row, image, strict=True)), Fraction(0)) for row in weight.tolist()
        ]
    return math.sqrt(sum(x * x for x in image) / sum(x * x for x in first))


@pytest.mark.parametrize("condition", [1e2, 1e8, 1e14])
def test_the_lower_bound_of_an_ill_conditioned_chain_is_below_what_its_direction_shows(condition: float) -> None:
    """A matrix and its inverse: digits are lost, and with them the bound, but it is never above the truth."""
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        left, _, right = torch.linalg.svd(torch.randn(6, 6, generator=generator, dtype=torch.float64))
        values = condition ** -torch.linspace(0, 1, 6, dtype=torch.float64)
        weight = left @ values.diag() @ right
        chain = [weight, torch.linalg.inv(weight), weight, torch.linalg.inv(weight)]
        model = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in chain)).double().eval()
        for layer, own in zip(model, chain, strict=True):
            layer.weight.data.copy_(own)  # type: ignore[operator, union-attr]
        network = trace(model, (6,))
        v = torch.randn(1, 6, generator=generator, dtype=torch.float64)
        certain = robustness._certain(network, {}, v)
        true = exact_gain(chain, v[0])
        assert 0 <= certain <= true
        if condition < 1e3:
            assert certain > 0.999 * true
        report = lipguard.certify(model, (6,))
        assert report.lower_bound <= report.bound


def test_the_error_of_a_direction_covers_what_underflows() -> None:
    """x - 0.9 x, the second one by way of numbers that are too small: in floating point nothing is subtracted."""

    class Vanishing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.again, self.up, self.back = (nn.Linear(1, 1, bias=False).double() for _ in range(4))
            for layer, weight in ((self.down, -0.9e-200), (self.again, 1e-200), (self.up, 1e200), (self.back, 1e200)):
                nn.init.constant_(layer.weight, weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.back(self.up(self.again(self.down(x)))) + x

    network, v = trace(Vanishing(), (1,)), torch.ones(1, 1, dtype=torch.float64)
    assert float(robustness._jacobian_times(network, {}, v)) == 1.0
    assert robustness._certain(network, {}, v) <= 0.1
    assert lower_bound(network) <= 0.1


def test_directions_of_every_scale_have_their_error() -> None:
    network = trace(nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)).double().eval(), (3,))
    v = torch.randn(1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = [robustness._certain(network, {}, v * scale) for scale in (1e-200, 1.0, 1e200)]
    assert found[1] > 0
    assert found == pytest.approx([found[1]] * 3, rel=1e-9)


def test_groups_have_lower_bounds_with_an_error() -> None:
    lipguard.register(MaxMin, group=2)
    model = nn.Sequential(nn.Linear(4, 6), MaxMin(), nn.Linear(6, 3)).double().eval()
    report = lipguard.certify(model, (4,))
    assert 0.5 * report.bound < report.lower_bound <= report.bound


def test_a_slope_that_cancels_on_a_small_domain_is_no_contradiction() -> None:
    """1 - tanh^2 has no more than three digits there."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Tanh()).double().eval()
    nn.init.ones_(model[0].weight)  # type: ignore[arg-type]
    nn.init.zeros_(model[0].bias)  # type: ignore[arg-type]
    for at in (12.0, 15.0, 17.0, 18.5, 30.0):
        within = lipguard.certify(model, (1,), domain=lipguard.Box(at, at + 1e-3)).restricted
        assert within is not None
        assert 0 <= within.lower_bound <= within.bound


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), MemoryError(), ValueError("several\nlines")])
def test_a_search_that_fails_costs_the_lower_bound_alone(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    whole = lipguard.certify(model, (3,), domain=lipguard.Box(0.0, 1.0))

    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(robustness, "_ascent_direction", fails)
    report = lipguard.certify(model, (3,), domain=lipguard.Box(0.0, 1.0))
    for found, before in ((report, whole), (report.restricted, whole.restricted)):
        assert found is not None
        assert before is not None
        assert (found.bound, found.status) == (before.bound, before.status)
        assert found.lower_bound == 0.0
        (note,) = found.notes
        assert note.startswith(f"no lower bound: the search failed with {type(error).__name__}")
        assert "\n" not in note
        assert note in str(found)
        assert before.lower_bound > 0


@pytest.mark.parametrize("error", [KeyboardInterrupt(), CertificateError("a slope")])
def test_what_is_no_accident_of_the_search_is_raised(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(reporting, "warm_lower_bound", fails)
    with pytest.raises(type(error)):
        lipguard.certify(nn.Linear(3, 2), (3,))
