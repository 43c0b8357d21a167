"""The contract of forms: what every kind of proof says of them, and what every norm of the input makes of them.

Sampled <= exact <= bound <= product, for every norm.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers.networks import with_weights
from helpers.sandwich import drawn, sampled
from numpy.typing import NDArray
from torch import Tensor, nn

import lipguard
from lipguard.certifying.hints import HINTS
from lipguard.errors import CertificateError, ConfigError
from lipguard.proposing.feasible.uniform import enlarged_uniformly
from lipguard.trusted.certificate.verify import verify_certificate
from lipguard.trusted.network.graph import Network
from lipguard.trusted.norms.input_norm import L2, InputNorm, LInfinity, PerChannel
from lipguard.trusted.proofs.claim import Claim, Means
from lipguard.trusted.proofs.kinds import CHECKS, proves
from lipguard.trusted.reading.trace import trace

Array = NDArray[np.float64]
SHAPE = (3, 2)
STD = (0.5, 2.0, 3e-3)
FACTORS = np.array([1.0, 3.0, 0.25, 40.0, 1e-3, 7.0])


@dataclasses.dataclass(frozen=True)
class Norm:
    """The length of each sample, and the largest value of a form on the unit ball: at one of its vertices, or axes."""

    length: Callable[[Tensor], Tensor]
    largest: Callable[[Array], Fraction]


def spread(std: tuple[float, ...]) -> Norm:
    wide = torch.tensor(std, dtype=torch.float64)[:, None]
    return Norm(
        lambda x: (x * wide).flatten(1).norm(dim=1),
        lambda s: max(Fraction(a) / Fraction(b) ** 2 for a, b in zip(s, np.repeat(std, 2), strict=True)),
    )


NORMS: dict[InputNorm, Norm] = {
    L2(): spread((1.0, 1.0, 1.0)),
    PerChannel(STD): spread(STD),
    LInfinity(): Norm(lambda x: x.abs().flatten(1).amax(1), lambda s: sum(map(Fraction, s), Fraction(0))),
}


class Scaled(nn.Module):
    """A network of entries times factors."""

    def __init__(self, factors: Array) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.from_numpy(factors.reshape(SHAPE)))
        self.inner = nn.Sequential(
            nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * self.factors)  # type: ignore[no-any-return]


def model(factors: Array) -> Scaled:
    made = Scaled(factors)
    with_weights(made.inner, 0)
    return made.double().eval()


def claims() -> tuple[Network, Array, float]:
    """(a network whose entries count differently, multipliers, the squared bound of one where they do not)."""
    report = lipguard.certify(model(np.ones(6)), SHAPE)
    ((t,),) = report.certificate.multipliers
    return trace(model(FACTORS), SHAPE), t, float(report.certificate.forms[0][0])


@pytest.mark.parametrize("kind", CHECKS)
def test_every_kind_proves_a_form_and_nothing_below_it(kind: str) -> None:
    network, t, rho = claims()
    t, rho = enlarged_uniformly(network, t, rho, 0.2)  # by a clearance in every layer
    form = rho * FACTORS**2

    def holds(s: Array) -> bool:
        return proves(Claim(t, s, kind, 5e-3, 1e-9), network, Means(HINTS))

    assert holds(form)
    for i in range(6):  # each of the entries is needed, but for the clearance
        assert not holds(np.where(np.arange(6) == i, 1e-3 * form, form))
    assert not holds(np.array([form.min()]))
    assert holds(np.array([form.max()]))


@pytest.mark.parametrize("kind", CHECKS)
@pytest.mark.parametrize(
    "form", [np.zeros(0), np.ones(5), np.ones(7), np.ones((1, 6)), np.full(6, np.nan), -np.ones(6)]
)
def test_what_is_no_form_is_refused(kind: str, form: Array) -> None:
    network, t, _ = claims()
    assert not proves(Claim(t, 1e6 * form, kind, 5e-3, 1e-9), network, Means(HINTS))


def test_a_kind_without_a_row_is_refused() -> None:
    network, t, rho = claims()
    with pytest.raises(KeyError, match="hope"):
        proves(Claim(t, rho, "hope"), network, Means(HINTS))


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: type(norm).__name__)
@pytest.mark.parametrize("entries", ["one number", "one for each"])
def test_between_samples_and_products(norm: InputNorm, entries: str) -> None:
    network, t, rho = claims()
    scaled = model(FACTORS)
    form = 1.02 * rho * (FACTORS**2 if entries == "one for each" else np.array([FACTORS.max() ** 2]))
    report = lipguard.certify(scaled, SHAPE)
    certificate = dataclasses.replace(
        report.certificate, multipliers=((t,),), forms=(form,), bound=1e9, proof=report.certificate.proof
    )
    bound = verify_certificate(certificate, network, HINTS, input_norm=norm)
    assert sampled(scaled, drawn(SHAPE, 1000), length=NORMS[norm].length) <= bound
    product = norm.of_l2(report.product_bound, SHAPE)
    if not isinstance(norm, L2):
        assert bound <= product * (1 + 1e-14)
        assert bound <= norm.bound(form, SHAPE) * (1 + 1e-14)


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: type(norm).__name__)
def test_a_norm_takes_the_largest_of_a_form_on_its_ball(norm: InputNorm) -> None:
    """Against the vertices of the ball, in rational arithmetic."""
    for seed in range(20):
        s = np.random.default_rng(seed).uniform(0, 1, 6) ** 8
        exact = NORMS[norm].largest(s)
        found = norm.largest(s, SHAPE)
        assert exact <= Fraction(found) <= exact * (1 + Fraction(1, 10**14))
        constant = norm.largest(s[:1], SHAPE)
        assert constant >= norm.largest(np.full(6, s[0]), SHAPE) * (1 - 1e-14)
        assert Fraction(norm.bound(s, SHAPE)) ** 2 >= exact
        assert norm.of_l2(2.0, SHAPE) >= 2 * math.sqrt(norm.largest(np.ones(1), SHAPE)) * (1 - 1e-15)


def test_several_blocks_meet_the_norm_once() -> None:
    scaled = model(FACTORS)
    report = lipguard.certify(scaled, SHAPE, lipguard.DCPConfig(partition="cuts", max_block_size=16))
    network = trace(scaled, SHAPE)
    assert len(report.plan.blocks) > 1
    found = {type(n).__name__: verify_certificate(report.certificate, network, HINTS, input_norm=n) for n in NORMS}
    assert found["L2"] == report.bound
    assert found["LInfinity"] == pytest.approx(math.sqrt(6) * report.bound, rel=1e-6)
    assert found["PerChannel"] == pytest.approx(report.bound / min(STD), rel=1e-6)


@pytest.mark.parametrize("std", [(), (0.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (math.inf, 1.0, 1.0), (math.nan, 1.0, 1.0)])
def test_standard_deviations_are_positive(std: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="positive number for each channel"):
        PerChannel(std)


def test_there_is_one_standard_deviation_for_each_channel() -> None:
    for std in itertools.chain([(1.0,)], [(1.0,) * 6]):
        with pytest.raises(ConfigError, match="each of 3 channels"):
            PerChannel(std).largest(np.ones(1), SHAPE)


def test_a_certificate_is_none_of_a_smaller_bound_in_any_norm() -> None:
    network, t, rho = claims()
    report = lipguard.certify(model(FACTORS), SHAPE)
    forged = dataclasses.replace(report.certificate, multipliers=((t,),), forms=(1e-2 * rho * FACTORS**2,), bound=1e9)
    for norm in NORMS:
        with pytest.raises(CertificateError, match="positive semidefinite"):
            verify_certificate(forged, network, HINTS, input_norm=norm)
