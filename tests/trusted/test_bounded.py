"""Products and steep functions: on a domain they lie between samples and products; elsewhere they are refused."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.forward import Forward
from helpers.gated import Attention, Coupling, Gated, Quotient, SqueezeExcitation, SwiGLU
from helpers.networks import with_weights
from helpers.sandwich import assert_between, assert_sandwich, drawn
from torch import Tensor, nn

import lipguard
from lipguard import Ball, Box, DCPConfig
from lipguard.certifying.hints import HINTS
from lipguard.errors import CertificateError, InvalidNetworkError, UnsupportedLayerError
from lipguard.trusted.network.graph import Network
from lipguard.trusted.norms.layers import node_norms, quick_norm
from lipguard.trusted.norms.product import product_bounds
from lipguard.trusted.reading.trace import trace
from lipguard.trusted.regions.bounded import bounded
from lipguard.trusted.regions.enclosures import enclosed, matrix_sizes
from lipguard.trusted.regions.region import Domain

Shape = tuple[int, ...]
IMAGE = (2, 4, 5)
LATER = torch.ones(3, 3).triu(1).bool()
STEEP: dict[str, tuple[nn.Module, Shape]] = {
    "squeeze and excitation": (
        nn.Sequential(nn.Conv2d(2, 3, 2), SqueezeExcitation(3), nn.ReLU(), SqueezeExcitation(3), nn.Flatten()), IMAGE,
    ),
    "swiglu": (nn.Sequential(SwiGLU(4, 5), nn.ReLU(), SwiGLU(4, 3)), (4,)),
    "coupling": (nn.Sequential(Coupling(2), nn.Linear(4, 4), Coupling(2)), (4,)),
    "attention": (Attention(3), (4, 3)),
    "quotient": (nn.Sequential(nn.Linear(3, 4), Quotient(), nn.Linear(2, 2)), (3,)),
    "a cube": (nn.Sequential(nn.Linear(3, 3), Forward(lambda m, x: x**3 - x), nn.Linear(3, 2)), (3,)),
    "a product and a maximum": (
        nn.Sequential(nn.Conv2d(2, 2, 2), nn.MaxPool2d(2, 1), Forward(lambda m, x: x * x.flip(1)), nn.Flatten()), IMAGE,
    ),
    "matrices that hardly move": (Forward(lambda m, x: (4 + torch.sigmoid(0.01 * x)) @ x), (2, 2)),
    "on the other side": (Forward(lambda m, x: x @ (4 + torch.sigmoid(0.01 * x))), (2, 2)),
    "attention to what came before": (
        Forward(lambda m, x: (m.query(x) @ x.mT).masked_fill(LATER, -math.inf).softmax(2) @ x, query=nn.Linear(4, 4)),
        (3, 4),
    ),
    "heads that see what came before": (
        Forward(lambda m, x: m.of(x, x, x, attn_mask=LATER)[0],
                of=nn.MultiheadAttention(4, 2, batch_first=True)),
        (3, 4),
    ),
    "multihead attention": (
        Forward(lambda m, x: m.of(x, x, x)[0], of=nn.MultiheadAttention(4, 2, batch_first=True)), (3, 4),
    ),
}  # fmt: skip
DOMAINS: list[Domain] = [Box(-3.0, 3.0), Box(0.5, 1.0), Ball(0.25, 0.1), Box(-1e-3, 1e-3)]


def points(domain: Domain, shape: Shape) -> Tensor:
    x = drawn(shape)
    return torch.cat([domain.project(x), domain.project(domain.centre(shape) + 0.1 * x), domain.project(100 * x)])


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: f"{type(d).__name__} {d.halves((1,)).item():.2g}")
@pytest.mark.parametrize("name", STEEP)
def test_values_are_in_their_intervals_and_moves_below_their_bounds(name: str, domain: Domain) -> None:
    model, shape = STEEP[name]
    network = trace(with_weights(model, 3), shape)
    found = enclosed(network, domain, norm_of(network))
    x = points(domain, shape)
    values = all_values(network, x)
    away = (x - x.roll(1, 0)).flatten(1).norm(dim=1)
    for i, (value, (low, high)) in enumerate(zip(values, found.ends, strict=True)):
        slack = 1e-13 * value.abs().max()
        assert bool((value >= low - slack).all()), (i, network.nodes[i])
        assert bool((value <= high + slack).all()), (i, network.nodes[i])
        moved = (value - value.roll(1, 0)).flatten(1).norm(dim=1)
        assert bool((moved <= found.bounds[i] * away * (1 + 1e-9) + slack).all()), (i, network.nodes[i])


def norm_of(network: Network):
    nodes = network.nodes
    return lambda i: quick_norm(nodes[i].layer, nodes[nodes[i].inputs[0]].shape, HINTS)


def all_values(network: Network, x: Tensor) -> list[Tensor]:
    values = [x]
    for node in network.nodes[1:]:
        values.append(node.layer.forward(*(values[j] for j in node.inputs)))
    return values


@pytest.mark.parametrize("name", STEEP)
def test_on_a_domain_it_is_certified_and_verified(name: str) -> None:
    model, shape = STEEP[name]
    model, domain = with_weights(model, 4), Box(-1.0, 1.0)
    report = lipguard.certify(model, shape, domain=domain)
    assert report.restricted is not None
    assert report.restricted.bound == report.bound
    assert report.certificate.domain is domain
    assert any("Box(-1, 1) only" in note for note in report.notes)
    assert 0 < report.lower_bound <= report.bound
    assert_between(model, report, points(domain, shape), domain=domain)
    for other in (None, Box(-1.0, 1.5)):
        with pytest.raises(CertificateError, match="only"):
            lipguard.verify(report.certificate, model, domain=other)


@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoder_layer_is_read_as_what_it_is_made_of(norm_first: bool) -> None:
    model = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, layer_norm_eps=1.0, norm_first=norm_first)
    model = with_weights(model, 3)
    report = lipguard.certify(model, (3, 4), domain=Box(-1.0, 1.0))
    assert_between(model, report, points(Box(-1.0, 1.0), (3, 4)), domain=Box(-1.0, 1.0))
    masked = Forward(lambda m, x: m.of(x, LATER), of=nn.TransformerEncoder(model, 1, enable_nested_tensor=False)).eval()
    assert lipguard.certify(masked, (3, 4), domain=Box(-1.0, 1.0)).bound > 0


@pytest.mark.parametrize("proof", ["dense", "sparse", "randomised"])
def test_every_proof_has_products(proof: str) -> None:
    model, shape = STEEP["squeeze and excitation"]
    domain = Ball(0.5, 0.5)
    report = lipguard.certify(with_weights(model, 5), shape, DCPConfig(proof=proof), domain=domain)
    assert report.proof == proof
    assert report.bound < report.product_bound
    assert_between(model, report, points(domain, shape), domain=domain)


@pytest.mark.parametrize("name", STEEP)
def test_without_a_domain_it_is_refused_in_one_line_that_names_one(name: str) -> None:
    model, shape = STEEP[name]
    for call in (lipguard.certify, lipguard.plan):
        with pytest.raises(UnsupportedLayerError, match=r"no global Lipschitz constant: name .*Box") as caught:
            call(model.eval(), shape)
        assert "\n" not in str(caught.value)
    with pytest.raises(UnsupportedLayerError):
        bounded(trace(model, shape), None, HINTS)


def test_a_plan_on_a_domain() -> None:
    model, shape = STEEP["swiglu"]
    assert lipguard.plan(model.eval(), shape, domain=Box(-1.0, 1.0)).blocks


def test_what_is_steep_on_the_domain_too_is_refused() -> None:
    model = Forward(lambda m, x: 1 / x[:, :1] + 1 / x[:, 1:])
    assert lipguard.certify(model, (2,), domain=Box(0.5, 2.0)).bound == pytest.approx(4 * 2**0.5, rel=0.3)
    for domain in (Box(0.0, 2.0), Box(-1.0, 2.0)):
        with pytest.raises(UnsupportedLayerError, match="Name a smaller domain"):
            lipguard.certify(model, (2,), domain=domain)


def test_bounded_factors_make_a_product_that_is_bounded_everywhere() -> None:
    """By hand: |d(t s)| <= |s| |dt| + |t| |ds| <= 1 |A| + 1/4 |B|."""
    model = with_weights(nn.Sequential(Gated(3, 4), nn.Linear(4, 2)), 0)
    report = assert_sandwich(model, (3,), domain=Box(-1.0, 1.0))
    assert report.restricted is not None
    assert report.restricted.bound < report.bound
    a, b, last = (
        float(torch.linalg.matrix_norm(w.detach(), 2)) for w in (model[0].a.weight, model[0].b.weight, model[1].weight)
    )
    assert report.product_bound <= last * (a + b / 4) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.LayerNorm(3, eps=0.5), Attention(3)), (4, 3)),
        (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4, eps=0.5), SwiGLU(4, 2), Forward(lambda m, x: x.exp())), (3,)),
        (nn.Sequential(nn.Conv2d(2, 3, 2), nn.Sigmoid(), SqueezeExcitation(3), nn.Flatten()), IMAGE),
    ],
)
def test_what_is_normalised_or_bounded_before_is_bounded_everywhere(model: nn.Module, shape: Shape) -> None:
    network = trace(with_weights(model, 1), shape)
    assert network.steep
    bounded(network, None, HINTS)
    assert_sandwich(model, shape)


def test_a_product_on_a_point_is_linear() -> None:
    """At u = (a, b) the derivative of a b is (b, a): nothing is lost where the domain is a point."""
    model, point = Forward(lambda m, x: x[:, :1] * x[:, 1:]), torch.tensor([3.0, 4.0])
    assert lipguard.certify(model, (2,), domain=Ball(point, 0.0)).bound == pytest.approx(5.0, rel=1e-4)


def test_a_square_on_an_interval_has_the_slope_of_its_end() -> None:
    report = lipguard.certify(Forward(lambda m, x: x * x), (2,), domain=Box(-1.0, 3.0))
    assert report.bound == pytest.approx(6.0, rel=1e-4)


def test_norms_of_matrices_in_a_box_are_below_their_sizes() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.rand(5, 4, 7, generator=generator, dtype=torch.float64)
    for _ in range(200):
        signs = 2 * torch.rand(5, 4, 7, generator=generator, dtype=torch.float64) - 1
        norms = torch.linalg.matrix_norm(sizes * signs.sign() * signs.abs().sqrt(), 2)
        assert bool((norms <= matrix_sizes(sizes)[:, 0, 0]).all())
    assert matrix_sizes(torch.full((1, 2, 2), math.inf))[0, 0, 0] == math.inf
    ones = torch.ones(1, 3, 5, dtype=torch.float64)
    assert float(matrix_sizes(ones)) == pytest.approx(15**0.5)


def test_the_network_that_is_bounded_has_finite_slopes_and_no_products() -> None:
    for model, shape in STEEP.values():
        network = trace(with_weights(model, 6), shape)
        assert network.steep
        own = bounded(network, Box(-1.0, 1.0), HINTS)
        assert not own.steep
        assert math.isfinite(product_bounds(own, node_norms(own, HINTS))[-1])
    plain = trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), (2,))
    assert not plain.steep
    assert bounded(plain, None, HINTS) is plain


def test_a_bound_that_no_float_can_hold_is_refused() -> None:
    model = Forward(lambda m, x: torch.sin(x.flip(1) * x * 1e200) * 1e150 + x * x.flip(1))
    with pytest.raises(InvalidNetworkError, match="beyond what double precision can hold"):
        lipguard.certify(model, (2,), domain=Box(-1.0, 1.0))


def test_far_from_zero_values_overflow_and_the_domain_is_refused() -> None:
    model = Forward(lambda m, x: (x**7) ** 7)
    with pytest.raises(UnsupportedLayerError, match="Name a smaller domain"):
        lipguard.certify(model, (1,), domain=Box(-1e9, 1e9))
