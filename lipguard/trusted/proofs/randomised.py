"""A proof without a matrix, which errs with a probability that is known.

For a symmetric B with an eigenvalue outside [0, c], Chebyshev's polynomial of degree K on [0, c] is large there, and a
random vector has a component along that eigenvector: it grows under the three-term recurrence. Seen the other way
round, vectors that do not grow prove, except with a small probability, that no such eigenvalue exists. (Bounds of
eigenvalues from random starts: Kuczynski and Wozniakowski, 1992; with Chebyshev polynomials: van Dorsselaer,
Hochstenbach and van der Vorst, 2000.)

For one vector z with independent normal entries and a unit vector v, P(|v'z| <= r |z|) <= r sqrt(2 n / pi); for `m`
of them at once, at most its m-th power. With z_(j+1) = 2 C z_j - z_(j-1) + e_j, C = (2/c) B - I, |e_j| <= eps max |z_j|
and an eigenvalue lambda of C outside [-1, 1],

    |z_K| >= |v'z_K| >= T_K(|lambda|) (|v'z_0| - eps K^2 / 2 max_j |z_j|),

because the error of step j is carried on by the polynomial of the second kind U_(K-1-j) <= (K - j) T_K.
"""

from __future__ import annotations

import hashlib
import math
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs.claim import Claim, Means
from lipguard.trusted.proofs.hints import Hints
from lipguard.trusted.rounding import UNIT_ROUNDOFF, gamma_up, rounds_as_ieee

Array = NDArray[np.float64]
VECTORS = (4, 8, 16)  # more of them take fewer steps; the first that rounding leaves something of is taken
_GROWTH = 1.5  # what a matrix that passes stays below; exact arithmetic stays at 1
_ROUGH = 0.01  # a clearance from which on
_MOST_STEPS = 100_000
_SHORTEST = 2.0**-40  # vector; chance makes a shorter one of a single entry at most


class OutOfTimeError(Exception):
    """A proof would not be done at its deadline.

    Args:
        seconds: that a step takes.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the proof's steps take {seconds:.2f} s each, and would not be done in time")
        self.seconds = seconds


def check(claim: Claim, network: Network, means: Means) -> bool:
    """Whether the claim can be proved, but for its failure probability.

    Raises:
        OutOfTimeError: as `is_positive_semidefinite_randomly`.
    """
    device = means.device if rounds_as_ieee(means.device) else "cpu"
    form = ScaledForm(network, claim.t, claim.diagonal, device)
    numbers = " ".join(s.hex() for s in claim.diagonal.tolist())
    text = f"{network.digest} {numbers} {claim.clearance.hex()} {claim.failure_probability.hex()}"
    seed = text.encode() + claim.t.tobytes() + means.entropy
    return is_positive_semidefinite_randomly(
        form, means.hints, claim.clearance, claim.failure_probability, seed, means.deadline
    )


def is_positive_semidefinite_randomly(
    form: ScaledForm, hints: Hints, clearance: float, probability: float, seed: bytes, deadline: float = math.inf
) -> bool:
    """Prove that the matrix of `form` is positive semidefinite.

    Args:
        form: of the network, its multipliers and rho.
        hints: who knows about where the spectrum ends.
        clearance: the relative distance from zero that its smallest eigenvalue is hoped to have; smaller ones take
            longer, in proportion to 1 / sqrt(clearance).
        probability: that the result is True although the matrix is not positive semidefinite, at most.
        deadline: of `time.monotonic()`.
        seed: what the random vectors are drawn from; a digest of all that is proved, so that nobody can choose it.

    Returns:
        True only if it is proved; False says nothing, and is what a device gets that does not round as IEEE 754 asks.

    Raises:
        OutOfTimeError: it would not be done at the deadline; told as soon as that is seen.
    """
    if not rounds_as_ieee(form.device):
        return False
    known = form.dtype == torch.float64 and np.isfinite(form.diagonal).all() and (form.diagonal > 0).all()
    if not (clearance > 0 and 0 < probability < 1 and known):
        return False
    draw = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(seed).digest(), "big")))

    def random(vectors: int) -> Tensor:
        return torch.from_numpy(draw.standard_normal((vectors, form.n))).to(form.device)

    top = _top(form, hints, clearance, deadline)
    if time.monotonic() > deadline:
        raise OutOfTimeError(math.inf)
    found = course(form, clearance, probability, top, largest_loss(form))
    if found is None:
        return False
    vectors, steps, share = found
    z = random(vectors)
    if not float(z.norm(dim=1).min()) >= _SHORTEST:
        return False
    growth = _growth(form, z, top, clearance, steps, deadline)
    # An eigenvalue of B below 0 is one of C below -(1 + 2 clearance / top). Rounding of this line is far below 1e-9.
    return share * math.cosh(steps * _rate(clearance, top)) > growth * (1 + 1e-9)


def course(
    form: ScaledForm, clearance: float, probability: float, top: float, lost: float
) -> tuple[int, int, float] | None:
    """(vectors, steps, the share of a vector that rounding leaves); None where it leaves too little.

    Args:
        form: of the matrix.
        clearance: as for the proof.
        probability: as for the proof.
        top: above the spectrum.
        lost: `largest_loss` of the form.
    """
    if not (0 < top < math.inf and math.isfinite(lost)):
        return None
    eps = 1.01 * (4 / top * (gamma_up(form.roundings) * lost + gamma_up(16) * clearance) + 4 * gamma_up(16))
    for vectors in VECTORS:
        steps = steps_needed(form.n, clearance, top, probability, vectors)
        share = _share(form.n, probability, vectors) - eps * steps * steps / 2 * _GROWTH
        if steps <= _MOST_STEPS and share > 0.5 * _share(form.n, probability, vectors):
            return vectors, steps, share
    return None


def steps_needed(n: int, clearance: float, top: float, probability: float, vectors: int = 4) -> int:
    """Degree of the polynomial that a proof takes, with room for half of the vectors' share to be lost in rounding."""
    needed = math.acosh(max(2.0 * _GROWTH / _share(n, probability, vectors), 1.0))
    rate = _rate(clearance, top)
    return math.ceil(needed / rate) + 1 if rate > needed * 1e-9 else 10**9


def _rate(clearance: float, top: float) -> float:
    """acosh(1 + 2 clearance / top), without the loss of digits that this form has for small clearances."""
    return 2 * math.asinh(math.sqrt(clearance / top))


def _share(n: int, probability: float, vectors: int) -> float:
    """The part of a random vector along a given direction, except with `probability` for all vectors at once."""
    return float(probability ** (1 / vectors) / math.sqrt(2 * n / math.pi)) * (1 - 1e-9)


def _growth(form: ScaledForm, z: Tensor, top: float, clearance: float, steps: int, deadline: float) -> float:
    """The largest |z_j| / |z_0| over all vectors and steps; infinite as soon as it is too large."""
    began = time.monotonic()

    def times(v: Tensor) -> Tensor:
        return form(v).mul_(2 / top).sub_(v, alpha=1 + 2 * clearance / top)

    lengths = z.norm(dim=1)
    before, now = z, times(z)
    largest = 1.0
    for j in range(steps):
        if j:
            before, now = now, times(now).mul_(2).sub_(before)
        largest = max(largest, float((now.norm(dim=1) / lengths).max()) * (1 + 1e-9))
        if not largest <= _GROWTH:
            return math.inf
        passed = time.monotonic() - began
        if began + passed * steps / (j + 1) > deadline:
            raise OutOfTimeError(passed / (j + 1))
    return largest


def _top(form: ScaledForm, hints: Hints, clearance: float, deadline: float) -> float:
    """Above the spectrum, which of a chain ends at 2. If it is not, vectors grow and nothing is proved."""
    if clearance < _ROUGH:
        return max(2.001, 1.03 * hints.largest_eigenvalue(form, 30, deadline))
    return max(2.05, 1.1 * hints.largest_eigenvalue(form, 8, deadline))  # the proof itself takes few steps


def largest_loss(form: ScaledForm, steps: int = 4) -> float:
    """An upper bound of the norm of `form.lost`: the largest (M v)_i / v_i, for any positive v (Collatz, Wielandt)."""
    v = torch.ones(1, form.n, dtype=torch.float64, device=form.device)
    bound = math.inf
    for _ in range(steps):
        w = form.lost(v)
        bound = min(bound, float((w / v).max()))
        v = (w / w.max()).clamp_min(1e-6)
    # Underflow, as a share of a vector that is no shorter than _SHORTEST, and in gamma's units.
    underflow = 2.0 * form.n * form.underflow / _SHORTEST / gamma_up(form.roundings)
    return bound * (1 + 2 * gamma_up(form.roundings)) + UNIT_ROUNDOFF + underflow
