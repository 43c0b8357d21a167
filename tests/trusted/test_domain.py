"""Bounds on a domain: slopes in intervals, intervals of neurons, and what is proved of them."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from helpers.networks import Residual, with_weights
from torch import nn

import lipguard
from lipguard import Ball, Box, DCPConfig
from lipguard.certifying.certify import certify_network
from lipguard.certifying.hints import HINTS
from lipguard.certifying.margins import margin_network
from lipguard.certifying.request import Request
from lipguard.errors import CertificateError, ConfigError
from lipguard.trusted.layers import Activation
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.reading.trace import trace
from lipguard.trusted.regions import restriction
from lipguard.trusted.regions.intervals import intervals
from lipguard.trusted.regions.region import Domain

SHAPE = (2, 5, 4)
POINT = torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(SHAPE)
BODY = [nn.Conv2d(3, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 3, 1)]
MODEL = nn.Sequential(
    nn.Conv2d(2, 3, 3, padding=1, stride=(1, 2)), nn.BatchNorm2d(3), nn.Tanh(),
    Residual(nn.Sequential(*BODY), nn.ReLU()), nn.MaxPool2d(2, 1),
    nn.ELU(), nn.Flatten(), nn.Linear(12, 6), nn.Softplus(), nn.Linear(6, 3),
)  # fmt: skip
DOMAINS: list[Domain] = [
    Box(0.0, 1.0), Box(POINT - 0.1, POINT + 0.1), Box(0.25, 0.25), Ball(0.0, 2.0), Ball(POINT, 0.2), Ball(POINT, 0.0),
]  # fmt: skip


@pytest.mark.parametrize(
    "module",
    [
        nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.Softplus(3.0, 200.0), nn.ReLU6(), nn.Hardtanh(-0.5, 2.0),
        nn.Softshrink(0.2), nn.LeakyReLU(0.2), nn.LeakyReLU(-0.3), nn.LeakyReLU(1.5), nn.ELU(), nn.ELU(2.0),
        nn.ELU(-0.5), nn.PReLU(2),
    ],
    ids=str,
)  # fmt: skip
def test_slopes_within_intervals(module: nn.Module) -> None:
    shape = (2, 3) if isinstance(module, nn.PReLU) else (1,)
    network = trace(nn.Sequential(module).double().eval(), shape)
    layer = next(n.layer for n in network.nodes if isinstance(n.layer, Activation))
    assert layer.within is not None
    generator = torch.Generator().manual_seed(0)
    ends = 4 * torch.randn(2, 200_000, generator=generator, dtype=torch.float64)
    edges = torch.tensor([[0.0, -1.0, 0.0, 6.0, -0.5, 50.0], [1.0, 0.0, 0.0, 7.0, 2.0, 90.0]], dtype=torch.float64)
    ends = torch.cat([ends, edges], 1)
    low, high = ends.amin(0), ends.amax(0)
    alpha, beta = layer.within(low, high)
    assert bool((alpha <= beta).all())
    for _ in range(5):  # a million pairs
        u, v = low + (high - low) * torch.rand(2, len(low), generator=generator, dtype=torch.float64)
        quotient = (layer.function(u) - layer.function(v)) / (u - v)
        known = (u - v).abs() > 1e-5
        assert bool((quotient >= alpha - 1e-9)[known].all())
        assert bool((quotient <= beta + 1e-9)[known].all())
    assert float((alpha > layer.alpha).double().mean() + (beta < layer.beta).double().mean()) > 0.3  # it is of use


def test_small_domains_have_smaller_bounds() -> None:
    model = with_weights(MODEL, 1)
    bounds = []
    for size in (0.0, 0.05, 0.5, 100.0):
        within = lipguard.certify(model, SHAPE, domain=Ball(POINT, size)).restricted
        assert within is not None
        bounds.append(within.bound)
    assert bounds == sorted(bounds)
    assert bounds[1] < 0.6 * bounds[3]


def test_where_all_neurons_are_stable_the_norm_of_the_matrix_is_found() -> None:
    model = with_weights(nn.Sequential(nn.Flatten(), nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 3)), 0)
    jacobian = torch.autograd.functional.jacobian(model, POINT[None])[0, :, 0].flatten(1)
    within = lipguard.certify(model, SHAPE, domain=Ball(POINT, 1e-4)).restricted
    assert within is not None
    assert within.bound == pytest.approx(float(torch.linalg.matrix_norm(jacobian, 2)), rel=1e-3)


def test_a_network_that_is_constant_on_the_domain() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(40, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval()
    with torch.no_grad():
        model[1].bias.fill_(-100.0)  # type: ignore[operator, union-attr]
    within = lipguard.certify(model, SHAPE, domain=Box(0, 1)).restricted
    assert within is not None
    assert within.bound == 0
    assert lipguard.verify(within.certificate, model, domain=Box(0.0, torch.ones(SHAPE))) == 0


def test_a_margins_bound_on_a_domain_is_none_elsewhere() -> None:
    model = with_weights(MODEL, 1)
    network = margin_network(trace(model, SHAPE), 0, 1)
    report = certify_network(Request(network, DCPConfig(), domain=Box(0.0, 0.1)), time.monotonic())
    with pytest.raises(CertificateError, match=r"holds on Box\(0, 0\.1\) only"):
        lipguard.verify_margin(report.certificate, model, 0, 1)
    assert lipguard.verify_margin(report.certificate, model, 1, 0, domain=Box(0.0, 0.1)) == report.bound


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Box(1.0, 0.0), "low <= high"), (lambda: Box(float("nan"), 0.0), "finite"),
        (lambda: Box(0.0, float("inf")), "finite"), (lambda: Ball(0.0, -1.0), "not negative"),
        (lambda: Ball("x", 1.0), "number or a tensor"), (lambda: Box(torch.zeros(2), torch.ones(3)), "fit together"),
        (lambda: lipguard.certify(MODEL, SHAPE, domain=Box(torch.zeros(7), 1.0)), r"fit samples of shape \(2, 5, 4\)"),
    ],
)  # fmt: skip
def test_domains_that_make_no_sense_are_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_numpy_values_are_taken() -> None:
    box = Box(np.zeros(SHAPE), np.ones(SHAPE))  # type: ignore[arg-type]
    assert float(box.radius(SHAPE)) == pytest.approx(0.5 * 40**0.5)


def test_numbers_are_not_rounded() -> None:
    assert float(Ball(0.0, 0.1).halves(())) == 0.1
    assert float(Box(-0.1, 0.1).halves(())) >= 0.1


@pytest.mark.parametrize("domain", DOMAINS)
def test_slopes_on_a_domain_are_those_of_the_intervals(domain: Domain) -> None:
    network = trace(with_weights(MODEL, 0), SHAPE)
    found = restriction._slopes(network, domain, node_norms(network, HINTS))
    assert found
    for i, (low, high) in intervals(network, domain, node_norms(network, HINTS)).items():
        layer = network.nodes[i].layer
        assert isinstance(layer, Activation)
        if i in found and layer.within is not None:
            alpha, spread = found[i]
            least, most = (end.clamp(layer.alpha, layer.beta) for end in layer.within(low, high))
            assert bool((alpha <= least).all())
            assert bool((alpha + spread >= most).all())


@pytest.mark.parametrize(
    ("module", "low", "high", "constant"),
    [
        (nn.Tanh(), -1.0, 1.0, 1.0), (nn.Tanh(), 0.5, 1.0, 1 - np.tanh(0.5) ** 2), (nn.Sigmoid(), -0.5, 2.0, 0.25),
        (nn.Softplus(), -2.0, 1.0, 1 / (1 + np.exp(-1.0))), (nn.ELU(), -2.0, -1.0, np.exp(-1.0)),
    ],
    ids=str,
)  # fmt: skip
def test_a_function_alone_has_its_steepest_slope(module: nn.Module, low: float, high: float, constant: float) -> None:
    report = lipguard.certify(nn.Sequential(module), (1,), domain=Box(low, high)).restricted
    assert report is not None
    assert constant * (1 - 1e-12) <= report.bound <= constant * (1 + 1e-6)
