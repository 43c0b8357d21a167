"""Every kind of layer, alone and in pairs, between samples and products of norms; group constraints on samples."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from helpers.networks import MaxMin, with_weights
from helpers.sandwich import assert_sandwich
from torch import nn

import lipguard
from lipguard import DCPConfig
from lipguard.certifying.hints import HINTS
from lipguard.errors import CertificateError
from lipguard.proposing.feasible.uniform import enlarged_uniformly
from lipguard.trusted.certificate.verify import verify_certificate
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.norms.product import product_bounds
from lipguard.trusted.proofs.claim import Claim, Means
from lipguard.trusted.proofs.kinds import proves
from lipguard.trusted.reading.trace import trace

SHAPE = (2, 5, 6)
KINDS: dict[str, list[nn.Module]] = {
    "conv": [nn.Conv2d(2, 2, 3, padding=1)],
    "strided": [nn.Conv2d(2, 2, 3, 2, 2)],
    "depthwise": [nn.Conv2d(2, 2, (1, 3), padding=(0, 1), groups=2)],
    "reflected": [nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")],
    "circular": [nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")],
    "transposed": [nn.ConvTranspose2d(2, 2, 3, 2, 1, groups=2)],
    "batch norm": [nn.BatchNorm2d(2)],
    "average": [nn.AvgPool2d(2, 1)],
    "max": [nn.MaxPool2d(2)],
    "overlapping max": [nn.MaxPool2d(3, 2, 1)],
    "prelu": [nn.PReLU(2)],
    "gelu": [nn.GELU()],
    "hardswish": [nn.Hardswish()],
    "leaky": [nn.LeakyReLU(0.2)],
    "shuffle": [nn.PixelUnshuffle(1), nn.ChannelShuffle(2)],
    "nearest": [nn.Upsample(scale_factor=2)],
    "bilinear": [nn.Upsample((4, 5), mode="bilinear")],
    "tanh": [nn.Tanh()],
}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("proof", ["dense", "sparse", "randomised"])
def test_alone_between_two_convolutions(kind: str, proof: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), *KINDS[kind], nn.Conv2d(2, 1, 2))
    assert_sandwich(with_weights(model, 0), SHAPE, DCPConfig(proof=proof))


PAIRS = list(itertools.product(KINDS, KINDS))
PARTS = [pytest.param(k, marks=[pytest.mark.slow] if k > 1 else []) for k in range(12)]


@pytest.mark.parametrize("part", PARTS)
def test_every_ordered_pair(part: int) -> None:
    for one, other in PAIRS[part :: len(PARTS)]:
        model = with_weights(nn.Sequential(*KINDS[one], *KINDS[other], nn.Flatten()), 1)
        assert_sandwich(model, SHAPE)


def test_what_is_compared_satisfies_its_constraints_on_a_million_pairs() -> None:
    """max(a, b) = a + p with p (b - a - p) >= 0, and with it |max|^2 <= a^2 + b^2, for differences."""
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, 1_000_000, 2, dtype=torch.float64, generator=generator)
    a, b = (u - v).unbind(1)
    p = (u.amax(1) - v.amax(1)) - a
    assert bool((p * (b - a - p) >= -1e-12).all())
    assert bool(((a + p) ** 2 <= a**2 + b**2 - 2 * p * (b - a - p) + 1e-12).all())


@pytest.mark.parametrize("solver", ["power", "scs", "clarabel"])
def test_multipliers_of_a_group_are_one(solver: str) -> None:
    lipguard.register(MaxMin, group=2)
    model = with_weights(nn.Sequential(nn.Conv2d(1, 2, 2), MaxMin(), nn.Flatten(), nn.Linear(32, 2)), 0)
    report = assert_sandwich(model, (1, 5, 5), DCPConfig(solver=solver))
    network = trace(model, (1, 5, 5))
    ((t,),) = [parts for parts in report.certificate.multipliers if parts]
    (block,) = [b for b, parts in zip(report.plan.blocks, report.certificate.multipliers, strict=True) if parts]
    groups = t.reshape(-1, 2)
    assert (groups == groups[:, :1]).all()
    wrong = t.copy()
    wrong[0] *= 1.5
    forged = dataclasses.replace(
        report.certificate,
        multipliers=tuple((wrong,) if parts else () for parts in report.certificate.multipliers),
    )
    with pytest.raises(CertificateError, match="differ within a group"):
        verify_certificate(forged, network, HINTS)
    part = block.parts(network)[0]
    larger, rho = enlarged_uniformly(part, t, report.bound**2, 0.2)
    wrong = larger.copy()
    wrong[0] *= 1.001
    for kind in ("dense", "sparse", "randomised"):
        for multipliers, verdict in ((larger, True), (wrong, False)):
            assert proves(Claim(multipliers, rho, kind, 0.01, 1e-6), part, Means(HINTS)) is verdict


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d((1, 3), 1, dilation=2)])
def test_the_product_knows_how_often_windows_read_an_entry(pool: nn.MaxPool2d) -> None:
    reads = torch.zeros(1, 1, 7, 9, dtype=torch.float64, requires_grad=True)
    pool(reads).sum()  # the shape fits
    network = trace(pool, (1, 7, 9))
    most = {(2, 2): 1.0, (3, 3): 4.0, (1, 3): 3.0}
    kernel = pool.kernel_size if isinstance(pool.kernel_size, tuple) else (pool.kernel_size,) * 2
    assert product_bounds(network, node_norms(network, HINTS))[-1] == pytest.approx(most[kernel] ** 0.5)


def test_max_pooling_costs_less_than_its_windows_overlap() -> None:
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(2)]
    model = with_weights(nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 5)), 0)
    report = assert_sandwich(model, (1, 16, 16))
    assert report.bound < 0.55 * report.product_bound


@pytest.mark.slow
def test_max_pooling_is_cut_and_tiled() -> None:
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(2)]
    model = with_weights(nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 5)), 0)
    whole = lipguard.certify(model, (1, 12, 12)).bound
    for config in (DCPConfig(max_block_size=60), DCPConfig(partition="cuts"), DCPConfig(partition="tiles")):
        assert whole <= assert_sandwich(model, (1, 12, 12), config).bound * 1.001
