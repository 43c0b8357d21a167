"""Small changes of multipliers that mend what an iteration left undone, in the directions that it found itself.

At LipSDP's optimum the matrix A(rho, t) is singular, and the vectors of the relaxation span its null space. While the
multipliers still move, the few directions in which A is indefinite lie close to their span. There, A is a matrix of the
order of the number of vectors, linear in the multipliers: the change that makes it positive semidefinite and is, in
relative terms, the smallest is a least-squares problem with one unknown per entry of that small matrix. It takes as
much as two steps of the iteration, and saves some ten times the clearance that a proof needs (docs/power_iteration.md).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipguard.proposing.feasible.lanczos import smallest_eigenvectors
from lipguard.proposing.proposal import Directions
from lipguard.trusted.lmi.freed import pre_activations, slope_ranges
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.network.graph import Network

Array = NDArray[np.float64]
_INDEPENDENT = 1e-10  # of the squared length of the longest direction
_MOST_DIRECTIONS = 32  # the longest ones
_NOISE = 1e-7  # of the answers in single precision; what neurons can do together, relative to what one can, is above it
_CHUNK = 4096  # neurons at a time
# Measured on networks in training: the smallest eigenvalue that is left, in the one seen, and in the one before.
_UNSEEN, _LEFT = 2.0, 0.3
_LARGEST_CHANGE = 0.5  # of a multiplier, relative
_MENDINGS, _LANCZOS_STEPS = 4, 100


def adjusted_in_span(
    network: Network, t: Array, rho: float, directions: Directions, device: torch.device | str = "cpu"
) -> tuple[Array, float]:
    """Multipliers for which A(rho, t) is positive semidefinite on the span of the directions, about.

    Args:
        network: of the multipliers.
        t: proposed multipliers, shape (neurons,).
        rho: the proposed square of the bound.
        directions: where the iteration ended.
        device: where the passes run.

    Returns:
        (t, deficit): the multipliers, and an estimate of how far the smallest eigenvalue of the scaled matrix is below
        zero with them; infinite where there is none.
    """
    form = ScaledForm(network, t, rho, device)
    directions_a, directions_z = torch.from_numpy(directions.pre_activations), torch.from_numpy(directions.values)
    basis, combination = _orthonormal(directions_z / torch.from_numpy(form.scale))
    if not len(basis):
        return t, math.inf
    small = basis @ _apply(form, basis).T
    if not small.isfinite().all():
        return t, math.inf
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    before = max(0.0, -float(values[0]))
    if before > 0:
        wanted = (vectors * (-values).clamp_min(0.0)) @ vectors.T
        a, b = combination @ directions_a, combination @ directions_z[:, -len(t) :]
        changed = _changed(t, wanted, a, b, *map(torch.from_numpy, slope_ranges(network)))
        after = ScaledForm(network, changed, rho, device)
        deficit = _deficit(after, basis * torch.from_numpy(form.scale / after.scale))
        if deficit < before:
            # What is seen from inside the spectrum may be far too little where much was amiss.
            return changed, max(_UNSEEN * deficit, _LEFT * before)
    return t, _UNSEEN * _deficit(form, basis)


def adjusted_in_new_span(
    network: Network, t: Array, rho: float, directions: Directions, enough: float, device: torch.device | str = "cpu"
) -> tuple[Array, float]:
    """Multipliers adjusted in directions that the iteration did not see, where A(rho, t) turned out to be indefinite.

    A few times: the eigenvectors of the smallest eigenvalues, by Lanczos' method, join the directions.

    Args:
        network: of the multipliers.
        t: proposed multipliers, shape (neurons,), which a proof refused.
        rho: the proposed square of the bound.
        directions: where the iteration ended.
        enough: a deficit that is small enough.
        device: where the passes run.

    Returns:
        (t, deficit): the best that was met, and how far the smallest eigenvalue is below zero with them.
    """
    best, least = t, math.inf
    for _ in range(_MENDINGS):
        form = ScaledForm(network, t, rho, device)
        values, vectors, _ = smallest_eigenvectors(form, _LANCZOS_STEPS)
        deficit = max(0.0, -float(values[0])) if len(values) else math.inf
        if not deficit < 0.9 * least:
            break
        best, least = t, deficit
        found = vectors[values < 0]
        if deficit <= enough or not len(found):
            break
        size = float(np.linalg.norm(directions.values / form.scale, axis=1).max(initial=1.0))
        z = found * torch.from_numpy(form.scale) * size
        a = pre_activations(network, z)
        directions = Directions(
            np.concatenate([directions.values, z.numpy()]), np.concatenate([directions.pre_activations, a.numpy()])
        )
        t, _ = adjusted_in_span(network, t, rho, directions, device)
    return best, least


def _changed(t: Array, wanted: Tensor, a: Tensor, b: Tensor, alpha: Tensor, beta: Tensor) -> Array:
    """The smallest relative change of `t` that adds the matrix `wanted` on the span, or about that."""
    weight, low, high = torch.from_numpy(t), b - alpha * a, b - beta * a
    rows, columns = torch.triu_indices(len(wanted), len(wanted))

    def effects(i: slice) -> Tensor:
        """A neuron with multiplier t adds t (low_p high_q + low_q high_p) to entry (p, q); shape (entries, neurons)."""
        return weight[i] * (low[rows, i] * high[columns, i] + low[columns, i] * high[rows, i])

    chunks = [slice(start, start + _CHUNK) for start in range(0, len(t), _CHUNK)]
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for E in map(effects, chunks):
        gram.addmm_(E, E.T)
    gram.diagonal().add_(_NOISE * max(float(gram.trace()), torch.finfo(torch.float64).tiny))
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed or not gram.isfinite().all():
        return t
    solution = torch.cholesky_solve(wanted[rows, columns, None], factor).T
    change = torch.cat([solution @ effects(i) for i in chunks], dim=1)[0].clamp(-_LARGEST_CHANGE, _LARGEST_CHANGE)
    changed: Array = t * (1 + change.numpy())
    return changed if np.isfinite(changed).all() else t


def _deficit(form: ScaledForm, rows: Tensor) -> float:
    """How far below zero the matrix is on the span of some rows and their image."""
    basis, _ = _orthonormal(rows)
    image = _apply(form, basis)
    beyond, _ = _orthonormal(image - (image @ basis.T) @ basis)
    both = torch.cat([basis, beyond - (beyond @ basis.T) @ basis])
    images = torch.cat([image, _apply(form, both[len(basis) :])])
    overlap, projected = both @ both.T, both @ images.T
    if not (overlap.isfinite().all() and projected.isfinite().all()):
        return math.inf
    lengths, axes = torch.linalg.eigh((overlap + overlap.T) / 2)
    kept = lengths > 1e-8
    axes = axes[:, kept] / lengths[kept].sqrt()
    if not len(axes.T):
        return math.inf
    smallest = torch.linalg.eigvalsh(axes.T @ ((projected + projected.T) / 2) @ axes)[0]
    return max(0.0, -float(smallest))


def _orthonormal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(basis, C) with basis = C rows, orthonormal, of the directions that are independent."""
    gram = rows @ rows.T
    if not gram.isfinite().all():
        return rows[:0], gram[:0]
    squares, axes = torch.linalg.eigh(gram)
    kept = squares > _INDEPENDENT * squares[-1:].clamp_min(torch.finfo(torch.float64).tiny)
    kept[:-_MOST_DIRECTIONS] = False
    combination = (axes[:, kept] / squares[kept].sqrt()).T
    return combination @ rows, combination


def _apply(form: ScaledForm, rows: Tensor) -> Tensor:
    return form(rows.to(form.device)).cpu() if len(rows) else rows
