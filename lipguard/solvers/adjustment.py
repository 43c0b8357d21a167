"""Small changes of multipliers that mend what an iteration left undone, in the directions that it found itself.

At LipSDP's optimum the matrix A(rho, t) is singular, and the vectors of the relaxation span its null space. While the
multipliers still move, the few directions in which A is indefinite lie close to their span. There, A is a matrix of the
order of the number of vectors, linear in the multipliers: the change that makes it positive semidefinite and is, in
relative terms, the smallest is a least-squares problem with one unknown per entry of that small matrix. It takes as
much as two steps of the iteration, and saves some ten times the margin that a proof needs (docs/power_iteration.md).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipguard.network.form import ScaledForm
from lipguard.network.graph import Network
from lipguard.network.linearised import slope_ranges
from lipguard.solvers.problem import Directions

Array = NDArray[np.float64]
_INDEPENDENT = 1e-10  # of the squared length of the longest direction
_MOST_DIRECTIONS = 32  # the longest ones
_NOISE = 1e-7  # of the answers in single precision; what neurons can do together, relative to what one can, is above it
_CHUNK = 4096  # neurons at a time
# Measured on networks in training: the smallest eigenvalue that is left, in the one seen, and in the one before.
_UNSEEN, _LEFT = 2.0, 0.3
_LARGEST_CHANGE = 0.5  # of a multiplier, relative


@np.errstate(over="ignore", invalid="ignore")
def adjusted(
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
    scaled = directions.values / form.scale
    basis, combination = _orthonormal(scaled)
    if not len(basis):
        return t, np.inf
    small = basis @ _apply(form, basis).T
    values, vectors = np.linalg.eigh((small + small.T) / 2)
    if not np.isfinite(values).all():
        return t, np.inf
    before = max(0.0, -float(values[0]))
    if before > 0:
        wanted = (vectors * np.maximum(-values, 0.0)) @ vectors.T
        a, b = combination @ directions.pre_activations, combination @ directions.values[:, -len(t) :]
        changed = _changed(t, wanted, a, b, *slope_ranges(network))
        after = ScaledForm(network, changed, rho, device)
        deficit = _deficit(after, basis * form.scale / after.scale)
        if deficit < before:
            # What is seen from inside the spectrum may be far too little where much was amiss.
            return changed, max(_UNSEEN * deficit, _LEFT * before)
    return t, _UNSEEN * _deficit(form, basis)


def _changed(t: Array, wanted: Array, a: Array, b: Array, alpha: Array, beta: Array) -> Array:
    """The smallest relative change of `t` that adds the matrix `wanted` on the span, or about that."""
    low, high = b - alpha * a, b - beta * a
    rows, columns = np.triu_indices(len(wanted))

    def effects(i: slice) -> Array:
        """A neuron with multiplier t adds t (low_p high_q + low_q high_p) to entry (p, q); shape (entries, neurons)."""
        added: Array = t[i] * (low[rows, i] * high[columns, i] + low[columns, i] * high[rows, i])
        return added

    chunks = [slice(start, start + _CHUNK) for start in range(0, len(t), _CHUNK)]
    gram = sum((E @ E.T for E in map(effects, chunks)), np.zeros((len(rows), len(rows))))
    gram[np.diag_indices_from(gram)] += _NOISE * max(float(np.trace(gram)), np.finfo(float).tiny)
    solution = np.linalg.lstsq(gram, wanted[rows, columns], rcond=None)[0]
    change = np.concatenate([solution @ effects(i) for i in chunks])
    if not np.isfinite(change).all():
        return t
    changed: Array = t * (1 + np.clip(change, -_LARGEST_CHANGE, _LARGEST_CHANGE))
    return changed


def _deficit(form: ScaledForm, rows: Array) -> float:
    """How far below zero the matrix is on the span of some rows and their image."""
    basis, _ = _orthonormal(rows)
    image = _apply(form, basis)
    beyond, _ = _orthonormal(image - (image @ basis.T) @ basis)
    both = np.concatenate([basis, beyond - (beyond @ basis.T) @ basis])
    images = np.concatenate([image, _apply(form, both[len(basis) :])])
    overlap, projected = both @ both.T, both @ images.T
    if not (np.isfinite(overlap).all() and np.isfinite(projected).all()):
        return np.inf
    lengths, axes = np.linalg.eigh((overlap + overlap.T) / 2)
    kept = lengths > 1e-8
    axes = axes[:, kept] / np.sqrt(lengths[kept])
    smallest = np.linalg.eigvalsh(axes.T @ ((projected + projected.T) / 2) @ axes)[0]
    return max(0.0, -float(smallest))


def _orthonormal(rows: Array) -> tuple[Array, Array]:
    """(basis, C) with basis = C rows, orthonormal, of the directions that are independent."""
    gram = rows @ rows.T
    if not np.isfinite(gram).all():
        return rows[:0], gram[:0]
    squares, axes = np.linalg.eigh(gram)
    kept = squares > _INDEPENDENT * max(float(squares[-1]), np.finfo(float).tiny)
    kept[:-_MOST_DIRECTIONS] = False
    combination = (axes[:, kept] / np.sqrt(squares[kept])).T
    return combination @ rows, combination


def _apply(form: ScaledForm, rows: Array) -> Array:
    image: Tensor = form(torch.from_numpy(np.ascontiguousarray(rows)).to(form.device))
    return image.cpu().numpy()
