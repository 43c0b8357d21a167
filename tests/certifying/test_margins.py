"""Constants of margins, and the radii that they certify."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from helpers.networks import with_weights
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import lipguard
from lipguard import DCPConfig, Margins
from lipguard.certifying.margins import needed_pairs
from lipguard.certifying.radii import assumed_rounding, certified_radii
from lipguard.errors import CertificateError, ConfigError, InvalidNetworkError

SHAPE = (1, 6, 6)
MODEL = nn.Sequential(
    nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4)
)


def jacobian_norms(model: nn.Module, i: int, j: int) -> float:
    x = torch.randn(60, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    y = model(x)
    (gradient,) = torch.autograd.grad((y[:, i] - y[:, j]).sum(), x)
    return float(gradient.flatten(1).norm(dim=1).max())


@pytest.mark.parametrize("proof", ["auto", pytest.param("randomised", marks=pytest.mark.slow)])
def test_constants_are_between_gradients_and_the_networks_bound(proof: str) -> None:
    model = with_weights(MODEL, 0)
    report = lipguard.certify(model, SHAPE)
    found = lipguard.certify_margins(model, SHAPE, report, DCPConfig(proof=proof))
    assert len(found.reports) == 6
    for (i, j), own in found.reports.items():
        constant = float(found.constants[i, j])
        assert constant == float(found.constants[j, i])
        assert max(jacobian_norms(model, i, j), own.lower_bound) * (1 - 1e-9) <= constant
        assert constant <= 2**0.5 * report.bound * (1 + 1e-15)
        certificate = found.certificate(j, i)
        assert certificate is not None
        assert lipguard.verify_margin(certificate, model, i, j) == own.bound
    assert float(found.constants.diagonal().abs().max()) == 0
    assert float(found.constants[0, 1:].mean()) < 1.3 * report.bound


def test_of_a_linear_network_they_are_exact() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 4)).double().eval()
    found = lipguard.certify_margins(model, (3,), lipguard.certify(model, (3,)))
    rows = model[1].weight.detach()
    expected = torch.cdist(rows, rows)  # type: ignore[arg-type]
    assert torch.allclose(found.constants, expected, rtol=1e-6)


def test_pairs_that_are_not_reached_keep_what_the_network_says() -> None:
    model = with_weights(MODEL, 0)
    report = lipguard.certify(model, SHAPE)
    found = lipguard.certify_margins(model, SHAPE, report, pairs=[(3, 1)])
    assert list(found.reports) == [(1, 3)]
    assert float(found.constants[0, 2]) >= 2**0.5 * report.bound
    assert found.certificate(0, 2) is None
    assert not lipguard.certify_margins(model, SHAPE, report, max_seconds=-1.0).reports


def test_of_later_weights_what_the_last_multipliers_prove() -> None:
    model = with_weights(MODEL, 0)
    report = lipguard.certify(model, SHAPE)
    first = lipguard.certify_margins(model, SHAPE, report)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.001)
    later = lipguard.certify(model, SHAPE, warm_start=report)
    for optimise in (True, False):
        found = lipguard.certify_margins(model, SHAPE, later, earlier=first, optimise=optimise)
        for pair in first.reports:
            assert jacobian_norms(model, *pair) * (1 - 1e-9) <= found.constants[pair]
            assert found.constants[pair] <= 1.02 * first.constants[pair]


def test_certificates_of_other_pairs_are_refused() -> None:
    model = with_weights(MODEL, 0)
    found = lipguard.certify_margins(model, SHAPE, lipguard.certify(model, SHAPE), pairs=[(0, 1)])
    certificate = found.certificate(0, 1)
    assert certificate is not None
    with pytest.raises(CertificateError):
        lipguard.verify_margin(certificate, model, 0, 2)
    with pytest.raises(ConfigError, match="two of 4 classes"):
        lipguard.verify_margin(certificate, model, 1, 1)
    with pytest.raises(CertificateError, match="cannot be read for inputs"):
        lipguard.verify_margin(dataclasses.replace(certificate, input_shape=(2, 6, 6)), model, 0, 1)
    with pytest.raises(CertificateError):
        lipguard.verify_margin(dataclasses.replace(certificate, bound=certificate.bound / 2), model, 0, 1)


def test_a_report_of_other_weights_is_refused() -> None:
    model = with_weights(MODEL, 0)
    report = lipguard.certify(model, SHAPE, domain=lipguard.Box(0.0, 0.01))
    assert report.restricted is not None
    assert report.restricted.certificate.domain is not None
    with pytest.raises(CertificateError, match=r"holds on Box\(0, 0\.01\) only, and margins are of all inputs"):
        lipguard.certify_margins(model, SHAPE, report.restricted, pairs=[])
    earlier = lipguard.certify_margins(model, SHAPE, report)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    with pytest.raises(CertificateError, match=r"report belongs to other weights.*certify it again"):
        lipguard.certify_margins(model, SHAPE, report, pairs=[])
    own = lipguard.certify(model, SHAPE)
    assert lipguard.certify_margins(model, SHAPE, own, pairs=[], earlier=earlier).constants[0, 1] > own.bound


def test_no_step_within_the_radius_changes_the_prediction() -> None:
    model = with_weights(MODEL, 1)
    found = lipguard.certify_margins(model, SHAPE, lipguard.certify(model, SHAPE))
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, *SHAPE, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        logits = model(x)
    radii = found.certified_radius(logits)
    assert bool((radii > 0).all())
    for target in range(4):  # towards every class, as far as the radius goes
        moved = x.clone()
        for _ in range(20):
            moved.requires_grad_()
            y = model(moved)
            (gradient,) = torch.autograd.grad(
                (y[:, target] - y.gather(1, logits.argmax(1)[:, None])[:, 0]).sum(), moved
            )
            step = gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12).reshape(-1, 1, 1, 1)
            away = (moved + 0.2 * radii.reshape(-1, 1, 1, 1) * step - x).detach()
            length = away.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            moved = x + away * (radii.reshape(-1, 1, 1, 1) / length.clamp_min(1e-12)).clamp(max=1.0)
        with torch.no_grad():
            assert torch.equal(model(moved).argmax(1), logits.argmax(1))


def test_radii() -> None:
    constants = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 4.0], [2.0, 4.0, 0.0]])
    logits = torch.tensor(
        [[3.0, 2.0, 0.0], [0.0, 5.0, 1.0], [1.0, 1.0, 0.0], [math.nan, 1.0, 0.0], [math.inf, 0.0, 0.0]]
    )
    assert certified_radii(logits, constants, 0.0).tolist() == pytest.approx([1.0, 1.0, 0.0, 0.0, 0.0])
    assert certified_radii(logits[:1], constants, 0.0)[0] < 1.0
    assert Margins.of_bound(0.0, 3).certified_radius(logits)[:1].tolist()[0] > 1e300  # a constant network
    assert Margins.of_bound(math.inf, 3).certified_radius(logits)[:3].tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"\(n, 3\)"):
        certified_radii(logits[:, :2], constants)
    for wrong in (-constants, constants * math.nan):
        with pytest.raises(ValueError, match="not negative"):
            certified_radii(logits, wrong)


ONES = torch.ones(2, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("error", "radius"),
    [(0.25, 1.5), (torch.tensor([0.25]), 1.5), (torch.tensor([[0.5, 0.25]]), 1.25), (1.0, 0.0), (math.inf, 0.0)],
)
def test_what_both_logits_may_be_off_is_taken_off_the_gap(error: torch.Tensor | float, radius: float) -> None:
    found = float(certified_radii(torch.tensor([[2.0, 0.0]]), ONES, error))
    assert found == pytest.approx(radius, abs=1e-12)
    assert found <= radius


@given(st.data())
def test_radii_are_rounded_down(data: st.DataObject) -> None:
    numbers = st.floats(-1e6, 1e6) | st.floats(-1e-300, 1e-300)
    logits = torch.tensor([data.draw(st.lists(numbers, min_size=3, max_size=3))], dtype=torch.float64)
    drawn = data.draw(st.lists(st.floats(0, 1e3) | st.floats(0, 1e-310), min_size=3, max_size=3))
    error = torch.tensor([drawn], dtype=torch.float64)
    constant = data.draw(st.floats(1e-3, 1e9))
    constants = torch.full((3, 3), constant, dtype=torch.float64).fill_diagonal_(0.0)
    found = Fraction(float(certified_radii(logits, constants, error)))
    z, e, k = logits[0].tolist(), error[0].tolist(), int(logits.argmax())
    exact = min(
        (Fraction(z[k]) - Fraction(z[j]) - Fraction(e[k]) - Fraction(e[j])) / Fraction(constant)
        for j in range(3) if j != k
    )  # fmt: skip
    assert found <= max(exact, 0)
    assert found >= exact * (1 - Fraction(1, 10**6)) - Fraction(1, 10**3)  # of what is a million itself


@pytest.mark.parametrize("error", [-1.0, math.nan, torch.zeros(3), torch.zeros(1, 3), torch.tensor([[0.0, -1.0]])])
def test_errors_that_make_no_sense(error: torch.Tensor | float) -> None:
    with pytest.raises(ValueError, match="Expected error to be"):
        certified_radii(torch.tensor([[2.0, 0.0]]), ONES, error)


@pytest.mark.parametrize(
    ("dtype", "share"), [(torch.float64, -40), (torch.float32, -13), (torch.float16, -6), (torch.bfloat16, -3)]
)
def test_logits_without_an_error_are_off_by_their_precision(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, share: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    logits = torch.tensor([[0.1, -0.8], [10.3, 0.3]], dtype=torch.float64).to(dtype)
    wide = logits.double()
    expected = wide.max(1).values - wide.min(1).values - 2 * 2.0**share * wide.abs().amax(1)
    for own in (logits, wide, *([logits.float()] if dtype != torch.float64 else [])):
        found = certified_radii(own, ONES)
        assert torch.allclose(found, expected.clamp_min(0.0), rtol=1e-12, atol=0)
        assert bool((found < expected).all() or (found == 0).any())
    logits[0, 0] = math.nan  # says nothing of the precision
    assert float(certified_radii(logits.double(), ONES)[1]) == float(certified_radii(logits[1:], ONES))


def test_where_products_of_float32_may_have_fewer_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    logits = torch.tensor([[0.1, -0.8]])
    assert assumed_rounding(logits) == 2.0**-13
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert assumed_rounding(logits) == 2.0**-9
    assert assumed_rounding(logits.double() / 3) == 2.0**-40
    for asked, share in (("high", -9), ("medium", -3)):
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda asked=asked: asked)
        assert assumed_rounding(logits) == 2.0**share
    for wrong in (logits.to(torch.complex64), logits.to(torch.float8_e4m3fn)):
        with pytest.raises(ValueError, match="Expected logits of"):
            assumed_rounding(wrong)
    assert assumed_rounding(torch.tensor([[3, 1]])) == 2.0**-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_radius_of_a_linear_classifier_is_above_the_exact_one(dtype: torch.dtype) -> None:
    for seed in range(10):
        torch.manual_seed(seed)
        model = nn.Linear(20, 4).eval()
        with torch.no_grad():
            model.bias.mul_(50)
        x = 2 * torch.randn(300, 20)
        margins = lipguard.certify_margins(model, (20,), lipguard.certify(model, (20,)))
        with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            logits = model(x)
        exact = exact_radii(model, x, logits.float().argmax(1))
        for own in (logits, logits.float()):
            found = margins.certified_radius(own)
            assert bool((found <= exact).all())
        assert bool((found > 0).any())


def exact_radii(model: nn.Linear, x: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Of a linear classifier, but for a relative 1e-12; nothing where another class is predicted."""
    weight, bias = model.weight.detach().double(), model.bias.detach().double()
    logits = x.double() @ weight.T + bias
    gap = logits.gather(1, predicted[:, None]) - logits
    far = (weight[predicted][:, None] - weight[None]).norm(dim=2)
    others = torch.arange(len(weight)) != predicted[:, None]
    return torch.where(others, gap / far.clamp_min(1e-300), torch.inf).amin(1).clamp_min(0.0)


def test_the_pairs_that_matter_come_first() -> None:
    logits = torch.tensor([[5.0, 4.0, 0.0]] * 3 + [[0.0, 4.0, 5.0]] * 5 + [[4.0, 5.0, 0.0]])
    assert needed_pairs(logits)[:2] == [(1, 2), (0, 1)]
    assert sorted(needed_pairs(logits)) == [(0, 1), (0, 2), (1, 2)]
    assert needed_pairs(logits[:0]) == []


def test_what_makes_no_sense_is_refused() -> None:
    model = with_weights(MODEL, 0)
    report = lipguard.certify(model, SHAPE)
    for pairs in ([(0, 0)], [(0, 4)], [(-1, 0)]):
        with pytest.raises(ConfigError, match="two of 4 classes"):
            lipguard.certify_margins(model, SHAPE, report, pairs=pairs)
    single = nn.Sequential(nn.Flatten(), nn.Linear(36, 1)).double().eval()
    with pytest.raises(InvalidNetworkError, match="two classes or more"):
        lipguard.certify_margins(single, SHAPE, lipguard.certify(single, SHAPE))
