"""The randomised proof on matrices whose spectrum is known: what it proves, what it refuses, and how often it errs."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from typing import Any

import numpy as np
import pytest
import torch
from helpers.claims import false_claim, proposed, smallest_eigenvalue
from helpers.networks import Residual, networks, with_weights
from hypothesis import given, settings
from numpy.typing import NDArray
from torch import Tensor, nn

from lipguard.certifying.hints import HINTS
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs import randomised
from lipguard.trusted.proofs.claim import Claim, Means
from lipguard.trusted.proofs.hints import Hints
from lipguard.trusted.proofs.kinds import proves
from lipguard.trusted.proofs.randomised import is_positive_semidefinite_randomly, steps_needed
from lipguard.trusted.proofs.sparse import is_form_positive_semidefinite
from lipguard.trusted.reading.trace import trace

Array = NDArray[np.float64]
P = 1e-12


class Planted:
    """A matrix of given eigenvalues in the place of a network's form, that counts its products."""

    device = torch.device("cpu")
    roundings = 10
    underflow = 0.0
    dtype = torch.float64

    def __init__(self, eigenvalues: Array, seed: int = 0, first: Array | None = None) -> None:
        self.n = len(eigenvalues)
        axes = np.random.default_rng(seed).standard_normal((self.n, self.n))
        if first is not None:  # the direction of the first eigenvalue
            axes[:, 0] = first
        Q, _ = np.linalg.qr(axes)
        self.matrix = torch.from_numpy((Q * eigenvalues) @ Q.T)
        self.diagonal = np.ones(self.n)
        self.products = 0

    def __call__(self, z: Tensor) -> Tensor:
        self.products += 1
        return z @ self.matrix

    def lost(self, z: Tensor) -> Tensor:
        return z @ self.matrix.abs()


def planted(smallest: float, n: int = 40, largest: float = 2.0) -> Planted:
    return Planted(np.concatenate([[smallest], np.linspace(max(smallest, 0.3), largest, n - 1)]))


def is_proved(form: Any, clearance: float, probability: float = P, seed: int = 0, hints: Hints = HINTS) -> bool:
    return is_positive_semidefinite_randomly(form, hints, clearance, probability, seed.to_bytes(8, "big"))


@pytest.mark.parametrize("smallest", [0.3, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("n", [3, 40, 300])
def test_what_has_the_clearance_is_proved(smallest: float, n: int) -> None:
    for seed in range(2):
        assert is_proved(planted(smallest, n), 0.9 * smallest, seed=seed)


@pytest.mark.parametrize("smallest", [-1e-9, -1e-4, -1e-2, -0.5, -30.0])
@pytest.mark.parametrize("clearance", [1e-4, 1e-2, 0.5])
def test_an_eigenvalue_below_zero_is_never_missed(smallest: float, clearance: float) -> None:
    assert not any(is_proved(planted(smallest), clearance, seed=seed) for seed in range(20))


def misses(trials: int, probability: float, first: Array | None = None, n: int = 24, clearance: float = 0.05) -> int:
    """False proofs of a matrix with an eigenvalue at -2 clearance, or just below zero for large probabilities."""
    smallest = -2 * clearance if probability < 1e-3 else -1e-12
    form = Planted(np.concatenate([[smallest], np.linspace(0.3, 2.0, n - 1)]), 0, first)
    return sum(is_proved(form, clearance, probability, seed) for seed in range(trials))


@pytest.mark.parametrize("direction", ["random", "an axis", "the diagonal"])
@pytest.mark.parametrize("trials", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_planted_eigenvalue_is_refused_in_every_trial(direction: str, trials: int) -> None:
    """Theory predicts a hundredth of a miss in 10,000 trials at most."""
    first = {"random": None, "an axis": np.eye(24)[0], "the diagonal": np.ones(24)}[direction]
    assert misses(trials, 1e-6, first) == 0


@pytest.mark.parametrize("probability", [0.1, 0.01])
@pytest.mark.parametrize("trials", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_misses_are_rarer_than_a_large_probability(probability: float, trials: int) -> None:
    assert misses(trials, probability) < probability * trials


def test_a_direction_that_hides_from_known_vectors_is_seen_by_others() -> None:
    """Why vectors are drawn from a hash of all that is claimed: who could choose them could hide from them."""
    n, seed = 24, 7
    draw = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(seed.to_bytes(8, "big")).digest(), "big")))
    vectors = draw.standard_normal((4, n))
    hidden = np.linalg.svd(vectors)[2][-1]  # orthogonal to all of them
    form = Planted(np.concatenate([[-1e-3], np.linspace(0.3, 2.0, n - 1)]), 0, hidden)
    assert is_proved(form, 0.05, 0.5, seed)  # few steps: rounding brings the direction in later
    assert not any(is_proved(form, 0.05, 1e-12, other) for other in range(100) if other != seed)


@pytest.mark.parametrize(("smallest", "probability"), [(-1e-9, 0.5), (-1e-3, 0.5), (-1e-9, 0.9), (-1e-9, 1e-3)])
@pytest.mark.parametrize("n", [2, 40])
def test_false_proofs_are_no_more_frequent_than_said(smallest: float, probability: float, n: int) -> None:
    form = planted(smallest, n)
    trials = 400
    false = sum(is_proved(form, 1e-2, probability, seed) for seed in range(trials))
    assert false <= probability * trials + 4 * math.sqrt(probability * (1 - probability) * trials)
    if (n, probability) == (40, 0.9):
        assert false > 0  # the frequency is that of an event that does take place


def test_the_component_that_is_counted_on_is_there_as_often_as_said() -> None:
    """One Gaussian vector misses its share of a direction with the probability given, or less if it is short."""
    trials = 20_000
    for n, probability, least in ((2, 0.5, 0.5), (5, 0.3, 0.8), (1000, 0.3, 0.95), (1000, 0.05, 0.95)):
        z = np.random.default_rng(n).standard_normal((trials, n))
        small = np.abs(z[:, 0]) <= randomised._share(n, probability, 1) * np.linalg.norm(z, axis=1)
        spread = 4 * math.sqrt(probability * (1 - probability) / trials)
        assert least * probability - spread <= small.mean() <= probability + spread
    assert randomised._share(9, 0.3**4, 4) == pytest.approx(randomised._share(9, 0.3, 1))


def test_several_eigenvalues_below_zero_and_a_whole_spectrum_below_it() -> None:
    assert not is_proved(Planted(np.linspace(-1e-6, 2, 30)), 1e-2)
    assert not is_proved(Planted(np.full(10, -1e-6)), 1e-2)
    assert not is_proved(Planted(np.full(10, -2.0)), 1e-2)
    assert is_proved(Planted(np.full(10, 1.0)), 1e-2)


@pytest.mark.parametrize("largest", [2.01, 3.0, 1e3])
def test_a_spectrum_above_what_was_estimated_is_not_proved(largest: float) -> None:
    form = Planted(np.array([largest, *np.linspace(0.3, 2, 30)]))
    assert is_proved(form, 0.1)
    low = dataclasses.replace(HINTS, largest_eigenvalue=lambda *_: 1.9)
    assert not any(is_proved(form, 1e-3, seed=seed, hints=low) for seed in range(5))


@pytest.mark.parametrize("largest", [1.0, 2.0, 7.0, 1e6])
def test_the_estimate_is_above_the_spectrum_of_what_is_provable(largest: float) -> None:
    form = Planted(np.concatenate([np.linspace(0.2, 0.5, 30), [largest]]))
    assert largest < randomised._top(form, HINTS, 1e-3, math.inf) <= max(1.04 * largest, 2.001)  # type: ignore[arg-type]
    assert largest < randomised._top(form, HINTS, 0.05, math.inf) <= max(1.11 * largest, 2.05)  # type: ignore[arg-type]


@pytest.mark.parametrize("clearance", [0.0, -1e-3, math.nan])
def test_without_a_clearance_nothing_is_proved(clearance: float) -> None:
    assert not is_proved(planted(0.3), clearance)


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.0, 1.5, math.nan])
def test_without_a_probability_nothing_is_proved(probability: float) -> None:
    assert not is_proved(planted(0.3), 0.1, probability)


@pytest.mark.parametrize("entry", [math.nan, math.inf])
def test_what_is_not_finite_is_not_proved(entry: float) -> None:
    form = planted(0.3)
    form.matrix[3, 3] = entry
    with np.errstate(invalid="ignore"):
        assert not is_proved(form, 0.1)
    form = planted(0.3)
    form.diagonal[5] = entry
    assert not is_proved(form, 0.1)


def test_a_variable_without_a_weight_is_not_proved() -> None:
    form = planted(0.3)
    form.diagonal[5] = 0.0
    assert not is_proved(form, 0.1)


def test_clearances_that_rounding_takes_are_refused_before_they_take_time() -> None:
    began = time.monotonic()
    for clearance in (1e-300, 1e-16, 1e-13):
        form = planted(0.3)
        assert not is_proved(form, clearance)
        assert form.products < 50
    assert time.monotonic() - began < 1


def test_a_proof_stops_as_soon_as_it_has_failed() -> None:
    form, clearance = planted(-0.5), 1e-6
    assert not is_proved(form, clearance)
    assert form.products < 0.1 * steps_needed(form.n, clearance, 2.001, P)


def test_equal_seeds_give_equal_verdicts_and_others_need_not() -> None:
    form = planted(-1e-9)
    verdicts = [[is_proved(form, 1e-2, 0.9, seed) for seed in range(200)] for _ in range(2)]
    assert verdicts[0] == verdicts[1]
    assert len(set(verdicts[0])) == 2


def test_random_numbers_of_others_neither_matter_nor_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def growths() -> list[float]:
        found: list[float] = []
        growth = randomised._growth

        def recorded(*args: Any) -> float:
            found.append(growth(*args))
            return found[-1]

        with monkeypatch.context() as patch:
            patch.setattr(randomised, "_growth", recorded)
            assert is_proved(planted(0.3), 0.2)
        return found

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    first = growths()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert growths() == first


def test_steps_grow_with_the_inverse_root_of_the_clearance() -> None:
    steps = [steps_needed(10_000, clearance, 2.001, P) for clearance in (1e-2, 1e-4, 1e-6)]
    assert steps[1] / steps[0] == pytest.approx(10, rel=0.02)
    assert steps[2] / steps[1] == pytest.approx(10, rel=0.01)
    assert 100 < steps_needed(100_000, 1e-3, 2.001, P, 8) < 250  # as measured with the prototype


def test_steps_grow_slowly_with_size_and_certainty_and_shrink_with_vectors() -> None:
    base = steps_needed(1000, 1e-3, 2.001, P)
    assert base < steps_needed(100_000, 1e-3, 2.001, P) < 1.5 * base
    assert base < steps_needed(1000, 1e-3, 2.001, P**2) < 2 * base
    assert steps_needed(1000, 1e-3, 2.001, P, 16) < steps_needed(1000, 1e-3, 2.001, P, 8) < base


@settings(max_examples=30)
@given(networks())
def test_what_rounding_may_lose_is_bounded_by_the_norm_of_it(sample: Any) -> None:
    network = trace(sample.model, sample.input_shape)
    t, _ = proposed(network)
    form = ScaledForm(network, t, 1.0)
    norm = np.linalg.norm(form.lost(torch.eye(form.n, dtype=torch.float64)).numpy(), 2)
    assert norm * (1 - 1e-12) <= randomised.largest_loss(form) <= 100 * norm + 1e-12


def chain() -> Network:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    return trace(with_weights(model, 0), (1, 6, 6))


def residual() -> Network:
    body = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 6))
    return trace(with_weights(nn.Sequential(Residual(body, nn.Identity()), nn.ELU(), nn.Linear(6, 9)), 0), (6,))


@pytest.mark.parametrize("build", [chain, residual])
@pytest.mark.parametrize("smallest", [-1e-6, -1e-4, -1e-2, -0.5])
def test_bounds_that_are_too_small_are_refused(build: Any, smallest: float) -> None:
    """The claim is made smaller until the matrix has just this eigenvalue below zero."""
    network, t, rho = false_claim(build(), smallest)
    form = ScaledForm(network, t, rho)
    for clearance in (1e-3, 1e-2):
        assert not any(is_proved(form, clearance, 1e-3, seed) for seed in range(4))
    trials = 40
    false = sum(is_proved(form, 2e-2, 0.5, seed) for seed in range(trials))
    assert false <= 0.5 * trials


def test_single_precision_proves_nothing() -> None:
    network = chain()
    t, rho = proposed(network)
    single, double = (ScaledForm(network, t, 2 * rho, dtype=dtype) for dtype in (torch.float32, torch.float64))
    z = torch.randn(3, single.n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(single(z), double(z), rtol=1e-4, atol=1e-5)
    clearance = 0.9 * smallest_eigenvalue(network, t, 2 * rho)
    assert is_proved(double, clearance, P)
    assert not is_proved(single, clearance, P)
    assert is_form_positive_semidefinite(double, HINTS)
    assert not is_form_positive_semidefinite(single, HINTS)


def test_the_random_vectors_depend_on_all_that_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can choose them: another claim, or other weights, have others."""
    seeds: list[bytes] = []
    monkeypatch.setattr(
        "lipguard.trusted.proofs.randomised.is_positive_semidefinite_randomly", lambda *args: seeds.append(args[4])
    )
    network, (t, rho) = chain(), proposed(chain())
    other = chain()
    other.nodes[1].layer.weight[0, 0, 0, 0] += 1e-15  # type: ignore[attr-defined]
    moved = t.copy()
    moved[-1] = np.nextafter(moved[-1], 1)
    form = np.full(network.nodes[0].size, rho)
    raised = form.copy()
    raised[-1] = np.nextafter(rho, np.inf)
    claims = [
        (network, t, rho, 1e-3, P), (network, t, rho, 1e-3, P), (network, moved, rho, 1e-3, P),
        (network, t, np.nextafter(rho, 0), 1e-3, P), (network, t, rho, 2e-3, P), (network, t, rho, 1e-3, 1e-6),
        (other, t, rho, 1e-3, P), (network, t, form, 1e-3, P), (network, t, raised, 1e-3, P),
    ]  # fmt: skip
    for own, multipliers, square, clearance, probability in claims:
        proves(Claim(multipliers, square, "randomised", clearance, probability), own, Means(HINTS))
    assert len(seeds) == len(claims)
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == len(claims) - 1


@pytest.mark.parametrize("device", ["cuda", "mps", "meta"])
def test_a_device_that_does_not_round_as_ieee_proves_nothing(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setenv("CUBLAS_EMULATION_STRATEGY", "eager")
    form = planted(0.3)
    form.device = torch.device(device)
    assert not is_proved(form, 0.1)
    assert not form.products
