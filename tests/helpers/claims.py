"""Claims about whole networks that are true, or false, by a known margin; by dense linear algebra."""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
import scipy.optimize
from hypothesis import assume
from numpy.typing import NDArray

from helpers.networks import Sample
from lipguard.proposing.feasible.uniform import enlarged_uniformly
from lipguard.proposing.power.options import PowerOptions
from lipguard.proposing.power.run import propose
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.trace import trace

Array = NDArray[np.float64]


def proposed(network: Network, step: float = 0.02) -> tuple[Array, float]:
    """Multipliers with a margin, positive, and a rho that they are meant for."""
    proposal = propose(network, PowerOptions())
    t = np.ones(network.neurons) if proposal.multipliers is None else proposal.multipliers
    return enlarged_uniformly(network, t, proposal.value**2, step)


def matrix(network: Network, t: Array, rho: float) -> Array:
    """A(rho, t), scaled to a diagonal of ones where it is diag(rho, 2 t): congruence keeps the signs of eigenvalues."""
    freed = FreedNetwork.assemble(network)
    A = freed.quadratic(t)
    A[: freed.n_x, : freed.n_x] += rho * np.eye(freed.n_x)
    scale = np.concatenate([np.full(freed.n_x, rho), 2 * t]) ** -0.5
    return scale[:, None] * A * scale


def smallest_eigenvalue(network: Network, t: Array, rho: float) -> float:
    """Of the scaled matrix."""
    return float(np.linalg.eigvalsh(matrix(network, t, rho))[0])


def smallest_rho(network: Network, t: Array) -> float:
    """What A(rho, t) >= 0 takes at least for these multipliers; infinite where no rho is enough."""
    freed = FreedNetwork.assemble(network)
    n, A = freed.n_x, freed.quadratic(t)
    scale = np.concatenate([np.ones(n), (2 * t) ** -0.5])
    A = scale[:, None] * A * scale
    if freed.neurons and np.linalg.eigvalsh(A[n:, n:])[0] <= 1e-9:
        return np.inf
    rest = scipy.linalg.solve(A[n:, n:], A[n:, :n], assume_a="pos") if freed.neurons else A[n:, :n]
    return float(np.linalg.eigvalsh(A[:n, n:] @ rest - A[:n, :n])[-1])


def with_smallest_rho(sample: Sample) -> tuple[Network, Array, float]:
    """A drawn network, multipliers for it, and their smallest rho; draws without one are passed over."""
    network = trace(sample.model, sample.input_shape)
    t, _ = proposed(network)
    least = smallest_rho(network, t)
    assume(1e-100 < least < np.inf)
    return network, t, least


def false_claim(network: Network, smallest: float) -> tuple[Network, Array, float]:
    """A rho for which the scaled matrix has this eigenvalue below zero, and no smaller one."""
    t, rho = proposed(network)
    ends = math.log(1e-3 * rho), math.log(2 * rho)
    found = scipy.optimize.brentq(lambda log: smallest_eigenvalue(network, t, math.exp(log)) - smallest, *ends)
    assert abs(smallest_eigenvalue(network, t, math.exp(found)) / smallest - 1) < 1e-3
    return network, t, math.exp(found)
