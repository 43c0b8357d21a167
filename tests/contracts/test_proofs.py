"""The contract of proofs: what every kind in the table accepts, and what none does. A new kind takes part by itself.

Claims are true or false by a distance that dense linear algebra, or rational arithmetic, knows.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import exact
from helpers.claims import false_claim, proposed, smallest_eigenvalue, smallest_rho, with_smallest_rho
from helpers.networks import ACTIVATIONS, Residual, Sample, networks, with_weights
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from lipguard.certifying.hints import HINTS
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs.claim import Claim, Means
from lipguard.trusted.proofs.hints import Hints
from lipguard.trusted.proofs.kinds import CHECKS, proves
from lipguard.trusted.proofs.order import NoOrderError
from lipguard.trusted.proofs.randomised import OutOfTimeError
from lipguard.trusted.reading.trace import trace

Array = NDArray[np.float64]
Known = tuple[Network, Array, float]
P = 1e-12
SHAPE = (1, 8, 8)
EACH = pytest.mark.parametrize("kind", CHECKS)


def claim(network: Network, t: Array, rho: float, kind: str) -> Claim:
    """With the clearance that it has, for kinds that err; a claim that is false says it has some."""
    clearance = 0.0
    if CHECKS[kind].errs:
        known = np.isfinite(t).all() and np.isfinite(rho) and (t > 0).all() and rho > 0
        clearance = max(0.9 * smallest_eigenvalue(network, t, rho), 1e-3) if known else 1e-3
    return Claim(t, rho, kind, clearance, P)


def holds(network: Network, t: Array, rho: float, kind: str, **means: Any) -> bool:
    return proves(claim(network, t, rho, kind), network, Means(**{"hints": HINTS} | means))


def above(kind: str) -> float:
    """How far above the smallest rho a claim has to be, relatively: kinds that err need a clearance."""
    return 0.2 if CHECKS[kind].errs else 1e-6


def cnn() -> nn.Module:
    layers = [nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(48, 4)]
    return with_weights(nn.Sequential(*layers), 0)


def chain() -> Network:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    return trace(with_weights(model, 0), (1, 6, 6))


def residual() -> Network:
    body = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 6))
    return trace(with_weights(nn.Sequential(Residual(body, nn.Identity()), nn.ELU(), nn.Linear(6, 9)), 0), (6,))


@pytest.fixture(scope="module")
def true() -> Known:
    """A claim that holds by a clearance."""
    network = trace(cnn(), SHAPE)
    t, rho = proposed(network)
    assert smallest_eigenvalue(network, t, rho) > 1e-3
    return network, t, rho


@settings(max_examples=25)
@given(networks())
def test_what_is_definite_is_proved_and_what_is_indefinite_is_not(sample: Sample) -> None:
    network, t, least = with_smallest_rho(sample)
    for kind, check in CHECKS.items():
        rho = least * (1 + above(kind))
        clearance = 0.9 * smallest_eigenvalue(network, t, rho)
        if not check.errs or clearance > 1e-7:
            assert proves(Claim(t, rho, kind, clearance, P), network, Means(HINTS)), kind
        for relative in (1e-6, 1e-2, 0.5):
            assert not holds(network, t, least * (1 - relative), kind), (kind, relative)


@pytest.mark.parametrize("build", [chain, residual])
@pytest.mark.parametrize("smallest", [-1e-6, -1e-4, -1e-2, -0.5])
def test_planted_eigenvalues_below_zero_are_refused_whatever_is_drawn(
    build: Callable[[], Network], smallest: float
) -> None:
    network, t, rho = false_claim(build(), smallest)
    for kind, check in CHECKS.items():
        for seed in range(10 if check.errs else 1):
            assert not holds(network, t, rho, kind, entropy=bytes([seed])), (kind, seed)


@settings(max_examples=40)
@given(st.sampled_from(ACTIVATIONS), st.integers(0, 99), st.integers(-16, -7), st.sampled_from([-1, 1]), st.booleans())
def test_nothing_that_rational_arithmetic_refutes_is_proved(
    activation: Any, seed: int, exponent: int, sign: int, uneven: bool
) -> None:
    """Claims that miss, or meet, by little more than rounding."""
    layers = [nn.Linear(2, 3), activation(), nn.Linear(3, 3), activation(), nn.Linear(3, 2)]
    sample = Sample(with_weights(nn.Sequential(*layers), seed), (2,))
    network = trace(sample.model, sample.input_shape)
    t, _ = proposed(network)
    if uneven:
        t[seed % len(t)] *= 1e6
    least = smallest_rho(network, t)
    assume(np.isfinite(least))
    rho = least * (1 + sign * 10.0**exponent)
    proved = [kind for kind in CHECKS if holds(network, t, rho, kind)]
    assert not proved or exact.is_positive_semidefinite(exact.lmi(sample, t, rho)), proved


@pytest.mark.parametrize("activation", [make() for make in ACTIVATIONS], ids=str)
def test_slopes_of_either_sign_in_a_residual_network(activation: nn.Module) -> None:
    body = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), activation, nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))
    model = nn.Sequential(Residual(body, nn.Identity()), activation, nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(8, 3))
    network = trace(with_weights(model, 1), (2, 3, 3))
    t, rho = proposed(network)
    least = smallest_rho(network, t)
    assert least <= rho
    for kind, check in CHECKS.items():
        assert holds(network, t, rho, kind), kind
        assert check.errs or holds(network, t, least * (1 + 1e-8), kind), kind
        assert not holds(network, t, least * (1 - 1e-8), kind), kind


@pytest.mark.parametrize(("hidden", "outputs"), [(3, 40), (40, 3), (1, 1)])
def test_outputs_of_any_number(hidden: int, outputs: int) -> None:
    model = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
    network = trace(with_weights(model, 0), (4,))
    t, _ = proposed(network)
    least = smallest_rho(network, t)
    for kind in CHECKS:
        assert holds(network, t, least * (1 + above(kind)), kind), kind
        assert not holds(network, t, least * (1 - 1e-8), kind), kind


@EACH
def test_networks_without_activations(kind: str) -> None:
    network = trace(with_weights(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)), 0), (1, 4, 4))
    none = np.zeros(0)
    least = smallest_rho(network, none)
    assert holds(network, none, least * (1 + above(kind)), kind)
    assert not holds(network, none, least * (1 - 1e-8), kind)


@EACH
@pytest.mark.parametrize("value", [-1.0, 0.0, np.nan, np.inf, -np.inf, 5e-324, 1e300])
def test_one_multiplier_that_is_wrong_spoils_the_claim(true: Known, value: float, kind: str) -> None:
    network, t, rho = true
    for i in (0, 100, len(t) - 1):
        wrong = t.copy()
        wrong[i] = value
        assert not proves(Claim(wrong, rho, kind, 1e-3, P), network, Means(HINTS))


@EACH
@pytest.mark.parametrize("rho", [0.0, -1.0, np.nan, np.inf, 5e-324])
def test_a_bound_that_is_no_number_is_refused(true: Known, rho: float, kind: str) -> None:
    network, t, _ = true
    assert not proves(Claim(t, rho, kind, 1e-3, P), network, Means(HINTS))
    assert not proves(Claim(-t, -rho, kind, 1e-3, P), network, Means(HINTS))


@EACH
def test_multipliers_of_another_size_order_or_number_are_refused(true: Known, kind: str) -> None:
    network, t, rho = true
    for wrong in (1e-3 * t, t[::-1].copy(), np.full_like(t, t.mean())):
        assert smallest_eigenvalue(network, wrong, rho) < -0.01
        assert not holds(network, wrong, rho, kind)
    for wrong in (t[:-1], np.append(t, 1.0), t[None], np.zeros(0)):
        assert not proves(Claim(wrong, rho, kind, 1e-3, P), network, Means(HINTS))


@EACH
def test_claims_that_are_true_hold_in_any_units(true: Known, kind: str) -> None:
    """Powers of two in the last layer change rho and the multipliers by their squares."""
    network, t, rho = true
    least, clearance = smallest_rho(network, t), claim(*true, kind).clearance
    for exponent in (-200, -40, 40, 200):
        model = cnn()
        with torch.no_grad():
            model[5].weight *= 2.0**exponent  # type: ignore[index]
        other, unit = trace(model, SHAPE), 4.0**exponent
        assert proves(Claim(t * unit, rho * unit, kind, clearance, P), other, Means(HINTS))
        assert not proves(Claim(t * unit, 0.9 * least * unit, kind, 1e-3, P), other, Means(HINTS))


@EACH
@pytest.mark.parametrize("late", [-1.0, 0.0, 1e-3])
def test_a_deadline_ends_it_and_never_makes_a_false_claim_pass(true: Known, late: float, kind: str) -> None:
    network, t, rho = true
    least = smallest_rho(network, t)
    for own, is_true in ((rho, True), (0.9 * least, False)):
        began = time.monotonic()
        try:
            found = proves(claim(network, t, own, kind), network, Means(HINTS, deadline=began + late))
        except OutOfTimeError:
            found = False
        assert time.monotonic() - began < 10
        assert is_true or not found


@EACH
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_what_a_device_was_to_prove_that_does_not_round_as_ieee_is_proved_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, device: str, kind: str
) -> None:
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "1")
    network, (t, rho) = chain(), proposed(chain())
    assert holds(network, t, 1.05 * rho, kind, device=device)
    assert not holds(network, t, 0.9 * smallest_rho(network, t), kind, device=device)


@EACH
def test_verdicts_are_repeated_and_leave_everything_as_it_is(true: Known, kind: str) -> None:
    """Other claims in between, and random numbers of others, neither matter nor change."""
    network, t, rho = true
    least, before, digest = smallest_rho(network, t), t.copy(), network.digest
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    verdicts = [holds(network, t, own, kind) for own in (rho, 0.9 * least, rho, 0.9 * least, rho)]
    assert verdicts == [True, False, True, False, True]
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    assert np.array_equal(t, before)
    assert network.digest == digest


def no_order(*_: object) -> Any:
    raise NoOrderError("nobody knows one")


BAD: dict[str, Hints] = {
    "no order": dataclasses.replace(HINTS, order=no_order),
    "the order of another matrix": dataclasses.replace(HINTS, order=lambda *_: HINTS.order(residual(), math.inf)),
    **{
        f"a spectrum that ends at {end}": dataclasses.replace(HINTS, largest_eigenvalue=lambda *_, end=end: end)
        for end in (0.0, -1.0, 1e-9, 1e9, math.nan, math.inf)
    },
}


@pytest.mark.parametrize("smallest", [-1e-4, -0.5])
def test_who_is_asked_for_hints_cannot_make_a_false_claim_pass(smallest: float) -> None:
    network, t, rho = false_claim(chain(), smallest)
    for (said, hints), (kind, check) in itertools.product(BAD.items(), CHECKS.items()):
        for seed in range(5 if check.errs else 1):
            try:
                found = holds(network, t, rho, kind, hints=hints, entropy=bytes([seed]))
            except (ValueError, IndexError):  # an order that is none
                found = False
            assert not found, (said, kind, seed)


def test_only_kinds_that_err_need_a_probability_and_a_clearance(true: Known) -> None:
    network, t, rho = true
    for kind, check in CHECKS.items():
        for clearance, probability in ((0.0, P), (1e-3, 0.0), (math.nan, P), (1e-3, math.nan), (1e-3, 1.0)):
            own = Claim(t, rho, kind, clearance, probability)
            assert proves(own, network, Means(HINTS)) is not check.errs, (kind, clearance, probability)
