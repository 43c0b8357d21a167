"""Products that fall below the normal numbers: their losses are counted, or the numbers are refused."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from helpers import exact
from helpers.networks import Sample
from numpy.typing import NDArray
from torch import nn

import lipguard
from lipguard.certifying.hints import HINTS
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.lmi.underflow import is_in_range, matrix_losses
from lipguard.trusted.norms import matrices
from lipguard.trusted.proofs import dense, randomised, sparse
from lipguard.trusted.proofs.claim import Claim, Means
from lipguard.trusted.proofs.kinds import proves
from lipguard.trusted.reading.trace import trace

Array = NDArray[np.float64]
PROOFS = ("dense", "sparse", "randomised")


def line(weight: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False).double()
    layer.weight.data.fill_(weight)
    return layer


def chain(*layers: float | nn.Module) -> Sample:
    """Numbers are layers of one weight."""
    modules = [line(layer) if isinstance(layer, (int, float)) else layer for layer in layers]
    return Sample(nn.Sequential(*modules).eval(), (1,))


def wide(seed: int, activation: nn.Module, spread: float) -> Sample:
    """Small layers whose weights are of all sizes."""
    rng = np.random.default_rng(seed)
    layers: list[nn.Module] = [nn.Linear(2, 3), nn.Linear(3, 2), activation, nn.Linear(2, 2), activation]
    layers.append(nn.Linear(2, 1))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            sizes = 10.0 ** rng.uniform(-spread, spread, layer.weight.shape)
            layer.double().weight.data.copy_(torch.from_numpy(sizes * rng.choice([-1, 1], layer.weight.shape)))
            layer.bias.data.zero_()
    return Sample(nn.Sequential(*layers).eval(), (2,))


def proved(sample: Sample, t: list[float] | Array, rho: float, proof: str) -> bool:
    network = trace(sample.model, sample.input_shape)
    chance = {"clearance": 0.01, "failure_probability": 1e-12} if proof == "randomised" else {}
    return proves(Claim(np.asarray(t, dtype=np.float64), rho, proof, **chance), network, Means(HINTS))


RELU = nn.ReLU()
# Affine chains and products over activations whose intermediate values are no floats; a claim, far below the truth.
FALSE: dict[str, tuple[Sample, list[float], float]] = {
    "an affine chain through 0": (chain(1e-200, 1e-200, 1e200, 1e200), [], 1e-20),
    "through a subnormal number": (chain(1e-160, 1e-160, 1e160, 1e160), [], 1e-20),
    "before a ReLU": (chain(1e-170, 1e-170, 1e170, 1e170, RELU, 1.0), [1.0], 1e-20),
    "before a ReLU, and no overflow backward": (chain(1e-165, 1e-165, 1e150, 1e150, RELU, 1.0), [1.0], 1e-70),
    "between ReLUs": (chain(1.0, RELU, 1e-170, 1e-170, 1e170, 1e170, RELU, 1.0), [4.0, 1.0], 1e-20),
    "behind ReLUs": (chain(1.0, RELU, 1e-170, 1e-170, 1e170, 1e170), [1.0], 1e-20),
    "a square over rho": (chain(1e-63, RELU, 1e-50), [1e-100], 1e-241),
    "a rho below all squares": (chain(1.0, RELU, 1e-28, RELU, 1e-28, RELU, 1e-28), [8e-168, 4e-112, 2e-56], 1e-300),
    "a bound that is no float": (chain(1e-170, RELU, 1e-170), [1e-300], 5e-324),
    "an affine map alone": (chain(1e-170), [], 5e-324),
    "a leaky slope": (chain(1e-63, nn.LeakyReLU(0.5), 1e-50), [1e-100], 1e-241),
    "a slope that is hardly one": (chain(1.0, nn.LeakyReLU(1e-200), 1.0, nn.LeakyReLU(1e-200), 1.0), [1.0, 0.6], 1e-30),
}  # fmt: skip


@pytest.mark.parametrize("proof", PROOFS)
@pytest.mark.parametrize("case", FALSE)
def test_claims_that_underflow_would_make_true_are_refused(case: str, proof: str) -> None:
    sample, t, rho = FALSE[case]
    assert not proved(sample, t, rho, proof)


@pytest.mark.parametrize("proof", PROOFS)
def test_no_claim_below_the_truth_is_proved_whatever_the_units(proof: str) -> None:
    rng, true = np.random.default_rng(0), 0
    for _ in range(120):
        depth = int(rng.integers(1, 4))
        sizes = 10.0 ** rng.uniform(-120, 120, 2 * depth)
        layers: list[Any] = []
        for k in range(depth):
            layers += [float(sizes[2 * k]), float(sizes[2 * k + 1]), *([RELU] if k < depth - 1 else [])]
        sample = chain(*layers)
        log = math.fsum(math.log10(s) for s in sizes)
        # Multipliers that are right for a rho just above the square of the product, and a rho that may be below.
        off = float(rng.choice([-60.0, -1.0, -1e-3, 0.02]))
        logs = [2 * math.fsum(map(math.log10, sizes[2 * k + 2 :])) for k in range(depth - 1)]
        t = [10 ** min(max(own - 0.29 * (len(logs) - k) + 0.3, -250), 250) for k, own in enumerate(logs)]
        if not -240 < 2 * log + off < 240:
            continue
        found = proved(sample, t, 10 ** (2 * log + off), proof)
        assert not (found and off < 0), (layers, t, off)
        true += found
    assert true or proof != "dense"


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.3), nn.LeakyReLU(-0.3)], ids=str)
def test_matrices_and_forms_carry_what_underflow_took(
    activation: nn.Module, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Array, Array]] = []
    monkeypatch.setattr(dense, "is_positive_semidefinite", lambda A, error: seen.append((A.copy(), error.copy())))
    sample = wide(seed, activation, 90.0)
    freed = FreedNetwork.assemble(trace(sample.model, sample.input_shape))
    K, Y = exact.matrices(sample)
    gamma = Fraction(freed.roundings, 2**53 - freed.roundings)
    for found, meant, size in ((freed.K, K, freed.K_abs), (freed.Y, Y, freed.Y_abs)):
        assert (abs(exact.exact(found) - meant) <= gamma * exact.exact(size)).all()
    t = 10.0 ** np.random.default_rng(seed).uniform(-240, -100, freed.neurons)
    rho = 1e-200
    A = exact.lmi(sample, t, 0.0)
    S = rho * np.eye(freed.n_x)
    with np.errstate(over="ignore", invalid="ignore"):
        dense.is_form(freed, t, freed.quadratic(t), S)
        meant = [A.copy()]
        meant[0][: freed.n_x, : freed.n_x] += exact.exact(S)
        if freed.input_is_apart:
            dense.is_diagonal_form(freed, t, np.array([rho]))
            Q = A[freed.n_x :, : freed.n_x]
            meant.append(A[freed.n_x :, freed.n_x :] - Q @ Q.T / Fraction(rho))
    for (M, error), true in zip(seen, meant, strict=True):
        finite = np.isfinite(M) & np.isfinite(error)
        for one, bound, other in zip(M[finite], error[finite], true[finite], strict=True):
            assert abs(Fraction(float(one)) - other) <= Fraction(float(bound))


def assert_scaled_form_carries_underflow(sample: Sample, t: Array, rho: float, z: Array) -> None:
    """The assembled matrix row by row, and its product with z entry by entry, against fractions."""
    network = trace(sample.model, sample.input_shape)
    freed = FreedNetwork.assemble(network)
    form = ScaledForm(network, t, rho)
    assembled = sparse._assembled(form)
    assert assembled is not None
    lower, diagonal, collected = assembled
    D = exact.exact(form.scale)
    true = D[:, None] * exact.lmi(sample, t, rho) * D
    Y = exact.matrices(sample)[1] * D
    size = form.n
    # The output is a variable of its own; eliminating it gives the matrix back.
    negative = np.flatnonzero(freed.alpha * freed.beta < 0)
    roots = [exact.matrices(sample)[0][i] * D for i in negative]
    weights = [Fraction(-2 * float(t[i]) * float(freed.alpha[i]) * float(freed.beta[i])) for i in negative]
    top = true + Y.T @ Y + sum((w * np.outer(r, r) for w, r in zip(weights, roots, strict=True)), 0 * true)
    found = lower.toarray()[:size, :size]
    found = found + found.T
    np.fill_diagonal(found, diagonal[:size])
    if not np.isfinite(found).all():
        return
    magnitude = form.magnitude(torch.eye(size, dtype=torch.float64)).numpy()
    allowed = sparse._underflow(form, len(diagonal))
    gamma = Fraction(4 * collected, 2**53)
    for row, meant, bound in zip(found, top, magnitude, strict=True):
        if np.isfinite(bound).all() and math.isfinite(allowed):
            off = sum(abs(Fraction(float(a)) - b) for a, b in zip(row, meant, strict=True))
            assert off <= gamma * sum(map(Fraction, bound.tolist())) + Fraction(allowed)
    if not math.isfinite(form.underflow):
        return
    image = form(torch.from_numpy(z)[None])[0].numpy()
    lost = form.magnitude(torch.from_numpy(np.abs(z))[None])[0].numpy()
    rounded = Fraction(4 * form.roundings, 2**53)
    for one, other, bound in zip(image, true @ exact.exact(z), lost, strict=True):
        if math.isfinite(one) and math.isfinite(bound):
            assert abs(Fraction(float(one)) - other) <= rounded * Fraction(float(bound)) + Fraction(form.underflow)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.3), nn.LeakyReLU(-0.3)], ids=str)
def test_scaled_matrices_and_passes_carry_what_underflow_took(activation: nn.Module, seed: int) -> None:
    sample, rng = wide(seed, activation, 75.0), np.random.default_rng(seed)
    t, rho = 10.0 ** rng.uniform(-230, 230, 4), 10.0 ** float(rng.uniform(-230, 230))
    z = rng.standard_normal(6) * 10.0 ** rng.uniform(-200, 0, 6)
    assert_scaled_form_carries_underflow(sample, t, rho, z)


def test_an_entry_that_was_lost_beside_a_large_one() -> None:
    first, second, third = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    for layer, weight in ((first, [[1e-165, 0], [0, 1]]), (second, [[1e-165, 0], [0, 1]]), (third, [[1e150, 1e100]])):
        layer.double().weight.data.copy_(torch.tensor(weight, dtype=torch.float64))
    sample = Sample(nn.Sequential(first, second, third, nn.LeakyReLU(0.5), line(1.0)).eval(), (2,))
    assert_scaled_form_carries_underflow(sample, np.array([1e-100]), 1e-200, np.ones(3))


def test_a_product_that_was_lost_times_a_large_entry() -> None:
    K, none = np.array([[1e-150, 1e150, 0.0]]), np.zeros((1, 3))
    freed = FreedNetwork(K, none, K, none, np.array([0.5]), np.array([1.0]), 2, 1)
    t = np.array([1e-200])
    lost = Fraction(2 * 0.5 * 1e-200) * Fraction(1e-150) * Fraction(1e150) - Fraction(float(freed.quadratic(t)[1, 0]))
    assert lost != 0
    error = Fraction(float(freed.quadratic_abs(t)[1, 0])) * Fraction(freed.form_roundings, 2**53)
    assert abs(lost) <= error + Fraction(freed.form_underflow())


@pytest.mark.parametrize("slope", [1e-40, -1e-40, 5e-324])
def test_slopes_next_to_zero_are_proved_as_larger_ones(slope: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(slope), nn.Linear(8, 2)).eval()
    report, plain = lipguard.certify(model, (4,)), lipguard.certify(nn.Sequential(model[0], nn.ReLU(), model[2]), (4,))
    assert report.bound == pytest.approx(plain.bound, rel=1e-3)
    assert report.bound < report.product_bound


def test_ordinary_weights_lose_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(27, 5),
        nn.Linear(5, 2),
    )
    network = trace(model.eval(), (1, 8, 8))
    assert set(matrix_losses(network)) == {0.0}


def test_quotients_that_underflow_count_where_they_meet_large_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Q / s of one neuron is 1e-325, and its product with Q of the other one, 1e100, is none that may be lost."""
    seen: list[tuple[Array, Array]] = []
    monkeypatch.setattr(dense, "is_positive_semidefinite", lambda A, error: seen.append((A.copy(), error.copy())))
    first, last = nn.Linear(1, 2, bias=False).double(), nn.Linear(2, 1, bias=False).double()
    first.weight.data.copy_(torch.tensor([[1e-65], [1.0]], dtype=torch.float64))
    last.weight.data.fill_(1e-150)
    sample = Sample(nn.Sequential(first, RELU, last).eval(), (1,))
    freed, t, s = FreedNetwork.assemble(trace(sample.model, (1,))), np.array([1e-60, 1e100]), 1e200
    assert freed.input_is_apart
    dense.is_diagonal_form(freed, t, np.array([s]))
    ((A, error),) = seen
    whole = exact.lmi(sample, t, 0.0)
    meant = whole[1:, 1:] - whole[1:, :1] @ whole[:1, 1:] / Fraction(s)
    off = abs(exact.exact(A) - meant)
    assert off[0, 1] > Fraction(1, 10**230)
    assert (off <= exact.exact(error)).all()


def test_an_input_that_is_lost_on_its_way_is_not_apart() -> None:
    freed = FreedNetwork.assemble(trace(chain(1e-170, 1e-170, 1e300).model, (1,)))
    assert not freed.Y.any()
    assert not freed.input_is_apart


@pytest.mark.parametrize(
    ("t", "rho", "alpha", "beta", "fits"),
    [
        (1.0, 1.0, 0.0, 1.0, True), (1e-240, 1e-240, -0.1, 1.1, True), (1e-242, 1.0, 0.0, 1.0, False),
        (1.0, 1e-242, 0.0, 1.0, False), (1e242, 1.0, 0.0, 1.0, False), (1.0, 1.0, 0.0, 1e-40, False),
        (1.0, 1.0, -1e40, 1.0, False), (0.0, 1.0, 0.0, 1.0, False), (math.nan, 1.0, 0.0, 1.0, False),
        (1.0, math.inf, 0.0, 1.0, False), (-1.0, 1.0, 0.0, 1.0, False), (1.0, 1.0, math.nan, 1.0, False),
    ],
)  # fmt: skip
def test_the_range_of_multipliers_and_slopes(t: float, rho: float, alpha: float, beta: float, fits: bool) -> None:
    assert is_in_range(np.array([1.0, t]), rho, np.array([0.0, alpha]), np.array([1.0, beta])) == fits


@pytest.mark.parametrize("exponent", [-1074, -1073, -1060, -1023, -1022, -500, 1000])
def test_norms_in_extreme_units_are_rounded_up(exponent: int) -> None:
    W = np.ldexp(np.array([[1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]), exponent)  # of norm 2 or 2^exponent
    assert Fraction(matrices.matrix_norm(W, 0)) ** 2 >= 4 * Fraction(2) ** (2 * exponent)
    V = np.ldexp(np.array([[1.0, 1.0]]), exponent)
    assert Fraction(matrices.matrix_norm(V, 0)) ** 2 >= 2 * Fraction(2) ** (2 * exponent)


def test_a_vector_that_is_nearly_zero_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network = trace(chain(1.0, RELU, 1.0).model, (1,))
    form = ScaledForm(network, np.array([2.0]), 9.0)
    assert randomised.is_positive_semidefinite_randomly(form, HINTS, 0.01, 1e-12, b"seed")
    monkeypatch.setattr(randomised, "_SHORTEST", 1e3)
    assert not randomised.is_positive_semidefinite_randomly(form, HINTS, 0.01, 1e-12, b"seed")


@pytest.mark.parametrize("scales", [(1e-163, 1e163), (1e-155, 1e155), (1e-200, 1e200), (1e-300, 1e150)])
def test_boxes_on_which_squares_are_no_floats(scales: tuple[float, float]) -> None:
    first, last = line(scales[0]), line(scales[1])
    first.bias = nn.Parameter(torch.tensor([-1e-14], dtype=torch.float64))
    report = lipguard.certify(nn.Sequential(first, RELU, last).eval(), (1,), domain=lipguard.Box(-1e150, 1e150))
    true = Fraction(scales[0]) * Fraction(scales[1])
    if scales[0] * 1e150 > 1e-14:
        assert report.restricted is not None
        assert Fraction(report.restricted.bound) >= true


@pytest.mark.parametrize("size", [1e-170, 1e-300, 5e-324])
def test_tiny_boxes_have_a_radius(size: float) -> None:
    box = lipguard.Box(-size, size)
    assert Fraction(box.radius((3,))) ** 2 >= 3 * Fraction(size) ** 2


def test_subnormal_numbers_are_kept_while_something_is_proved() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.fill_(1e-40)  # subnormal in single precision
        model[2].weight.fill_(1.0)
    usual = lipguard.certify(model, (2,))
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor flushes nothing")
    try:
        flushed = lipguard.certify(model, (2,))
        verified = lipguard.verify(flushed.certificate, model)
        still = float(torch.tensor(2.0**-1074, dtype=torch.float64) * 1.0) == 0
    finally:
        torch.set_flush_denormal(False)
    assert flushed.bound == usual.bound == verified > 1e-40
    assert still
