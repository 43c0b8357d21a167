"""The contract of regions: what every kind of them owes. One that is new takes part by being in `Domain`.

Sampled on the region <= exact where known <= bound on it <= bound everywhere <= product.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import typing
from pathlib import Path

import pytest
import torch
from helpers.networks import Residual, with_weights
from helpers.sandwich import assert_sandwich
from torch import Tensor, nn

import lipguard
from lipguard import Ball, Box, Certificate
from lipguard.certifying.hints import HINTS
from lipguard.errors import CertificateError, ConfigError
from lipguard.trusted.certificate.verify import verify_certificate
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.reading.trace import trace
from lipguard.trusted.regions.intervals import intervals
from lipguard.trusted.regions.region import Domain, are_equal, from_arrays, in_words, to_arrays
from lipguard.trusted.regions.restriction import restricted

SHAPE = (2, 5, 4)
ENTRIES = math.prod(SHAPE)
POINT = torch.linspace(-1, 1, ENTRIES, dtype=torch.float64).reshape(SHAPE)
BODY = [nn.Conv2d(3, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 3, 1)]
MODEL = nn.Sequential(
    nn.Conv2d(2, 3, 3, padding=1, stride=(1, 2)), nn.BatchNorm2d(3), nn.Tanh(),
    Residual(nn.Sequential(*BODY), nn.ReLU()), nn.MaxPool2d(2, 1),
    nn.ELU(), nn.Flatten(), nn.Linear(12, 6), nn.Softplus(), nn.Linear(6, 3),
)  # fmt: skip
KINDS = typing.get_args(Domain)
EXAMPLES: list[Domain] = [
    Box(0.0, 1.0), Box(POINT - 0.1, POINT + 0.1), Box(0.25, 0.25), Ball(0.0, 2.0), Ball(POINT, 0.2), Ball(POINT, 0.0),
]  # fmt: skip
LARGER = {Box: lambda b: Box(b.low - 1e-9, b.high), Ball: lambda b: Ball(b.point, b.size + 1e-9)}


@pytest.fixture(scope="module", params=EXAMPLES, ids=in_words)
def region(request: pytest.FixtureRequest) -> Domain:
    found: Domain = request.param
    return found


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return with_weights(copy.deepcopy(MODEL), 1)


@pytest.fixture(scope="module")
def report(region: Domain, model: nn.Module) -> lipguard.Report:
    """Of the model, everywhere and on the region."""
    return assert_sandwich(model, SHAPE, x=points(region), domain=region)


def points(region: Domain, count: int = 400) -> Tensor:
    """Of the region, its corners and its edge among them."""
    generator = torch.Generator().manual_seed(0)
    far = 3 * torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64)
    size = torch.rand(count, 1, 1, 1, generator=generator, dtype=torch.float64)
    return torch.cat([region.project(far), region.project(region.centre(SHAPE) + 0.3 * size * far)])


def test_every_kind_has_examples_here() -> None:
    assert {type(region) for region in EXAMPLES} == set(KINDS) == set(LARGER)


def test_its_centre_half_widths_and_radius_hold_all_of_it(region: Domain) -> None:
    x = points(region)
    away = x - region.centre(SHAPE)
    assert bool((away.abs() <= region.halves(SHAPE) * (1 + 1e-12)).all())
    assert float(away.flatten(1).norm(dim=1).max()) <= region.radius(SHAPE) * (1 + 1e-12)


def test_the_projection_is_the_nearest_point(region: Domain) -> None:
    x, inside = 3 * torch.randn(50, *SHAPE, generator=torch.Generator().manual_seed(5)).double(), points(region)
    torch.testing.assert_close(region.project(inside), inside, rtol=1e-12, atol=1e-12)
    nearest = (x - region.project(x)).flatten(1).norm(dim=1)
    others = torch.cdist(x.flatten(1), inside.flatten(1)).amin(1)
    assert bool((nearest <= others * (1 + 1e-9)).all())


def test_the_sandwich(report: lipguard.Report) -> None:
    assert report.restricted is not None
    assert "on the domain" in str(report)


def test_the_sandwich_where_the_constant_is_known(region: Domain) -> None:
    """Everything is linear on the region: all neurons are on, by biases that no point of it overcomes."""
    first, last = nn.Linear(ENTRIES, 5), nn.Linear(5, 3)
    linear = with_weights(nn.Sequential(nn.Flatten(), first, nn.ReLU(), last), 0)
    with torch.no_grad():
        first.bias.fill_(200.0)
    exact = float(torch.linalg.matrix_norm((last.weight @ first.weight).detach(), 2))
    report = assert_sandwich(linear, SHAPE, x=points(region), exact=exact, domain=region)
    assert report.restricted is not None
    assert report.restricted.bound <= exact * (1 + 1e-4)


def test_intervals_hold_what_neurons_read(region: Domain) -> None:
    for seed in range(3):
        network = trace(with_weights(copy.deepcopy(MODEL), seed), SHAPE)
        found = intervals(network, region, node_norms(network, HINTS))
        read: dict[int, Tensor] = {}

        def step(i: int, inputs: tuple[Tensor, ...], read: dict[int, Tensor] = read) -> Tensor:
            read[i] = inputs[0]
            return network.nodes[i].layer.forward(*inputs)  # noqa: B023

        network.run(points(region), step)
        for i, (low, high) in found.items():
            assert bool((read[i] >= low).all() and (read[i] <= high).all())
            if float(region.radius(SHAPE)) == 0:
                assert float((high - low).max()) < 1e-6 * float(1 + high.abs().max())


def test_the_network_on_it_is_the_network(region: Domain) -> None:
    network, x = trace(with_weights(copy.deepcopy(MODEL), 0), SHAPE), points(region)
    expected = network.forward(x)
    found = restricted(network, region, node_norms(network, HINTS)).forward(x)
    assert torch.allclose(found, expected, atol=1e-9 * float(expected.abs().max()))


def test_a_bound_on_it_is_one_on_nothing_else(
    region: Domain, model: nn.Module, report: lipguard.Report, tmp_path: Path
) -> None:
    within = report.restricted
    assert within is not None
    certificate = within.certificate
    for loaded in (
        certificate,
        Certificate.load(certificate.save(tmp_path / "c.npz")),
        Certificate.from_state(certificate.to_state()),
    ):
        assert loaded.domain is not None
        assert are_equal(loaded.domain, region, SHAPE)
        assert lipguard.verify(loaded, model, domain=region) == within.bound
    for other in (None, LARGER[type(region)](region), *(own for own in EXAMPLES if own is not region)):
        with pytest.raises(CertificateError, match=r"holds on .* only.*certificate\.domain"):
            lipguard.verify(certificate, model, domain=other)
        assert lipguard.verify(report.certificate, model, domain=other) == report.bound
    with pytest.raises(ConfigError, match="a Box, a Ball or None"):
        lipguard.verify(certificate, model, domain=0.05)  # type: ignore[arg-type]


def test_who_writes_another_region_into_a_certificate_has_to_prove_its_bound_there(
    region: Domain, model: nn.Module, report: lipguard.Report
) -> None:
    within = report.restricted
    assert within is not None
    wide = Box(-30.0, 30.0)
    if within.bound < 0.9 * report.bound:  # on a box as wide as this little is gained
        forged = dataclasses.replace(within.certificate, domain=wide)
        with pytest.raises(CertificateError):
            lipguard.verify(forged, model, domain=wide)
    for no_region in (Ball(torch.zeros(3), 0.05), None):
        forged = dataclasses.replace(within.certificate, domain=no_region)
        with pytest.raises(CertificateError):
            verify_certificate(forged, trace(model, SHAPE), HINTS, domain=no_region)


def test_arrays_keep_it_entry_by_entry(region: Domain) -> None:
    kind, arrays = to_arrays(region, SHAPE)
    assert are_equal(from_arrays(kind, arrays, SHAPE), region, SHAPE)
    assert not are_equal(LARGER[type(region)](region), region, SHAPE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "x", None])
def test_what_is_no_number_is_refused_by_name(kind: type, bad: object) -> None:
    names = [field.name for field in dataclasses.fields(kind)]
    for name in names:
        with pytest.raises(ConfigError, match=f"^{kind.__name__}: expected {name} to be") as error:
            kind(**{own: bad if own == name else 1.0 for own in names})
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_do_not_fit_a_sample_are_refused(kind: type, model: nn.Module) -> None:
    first, *others = [field.name for field in dataclasses.fields(kind)]
    region = kind(**{first: torch.zeros(7), **dict.fromkeys(others, 1.0)})
    with pytest.raises(ConfigError, match=rf"{kind.__name__}: expected {first} .*\(2, 5, 4\).*\(7,\)"):
        lipguard.certify(model, SHAPE, domain=region)
