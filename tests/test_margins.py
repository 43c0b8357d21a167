"""Constants of margins, and the radii that they certify."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from helpers.networks import with_weights
from torch import nn

import lipguard
from lipguard import DCPConfig, Margins
from lipguard.errors import CertificateError, ConfigError, InvalidNetworkError
from lipguard.margins import certified_radii, needed_pairs

SHAPE = (1, 6, 6)
MODEL = nn.Sequential(
    nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4)
)


def jacobian_norms(model: nn.Module, i: int, j: int) -> float:
    x = torch.randn(60, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    y = model(x)
    (gradient,) = torch.autograd.grad((y[:, i] - y[:, j]).sum(), x)
    return float(gradient.flatten(1).norm(dim=1).max())


@pytest.mark.parametrize("proof", ["auto", "randomised"])
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
    with pytest.raises(CertificateError, match="report belongs to other weights.*certify it again"):
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
    assert certified_radii(logits, constants).tolist() == pytest.approx([1.0, 1.0, 0.0, 0.0, 0.0])
    assert certified_radii(logits[:1], constants)[0] < 1.0 + 1e-15
    assert Margins.of_bound(0.0, 3).certified_radius(logits)[:1].tolist()[0] > 1e300  # a constant network
    assert Margins.of_bound(math.inf, 3).certified_radius(logits)[:3].tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"\(n, 3\)"):
        certified_radii(logits[:, :2], constants)


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
