"""Estimates of the ends of a form's spectrum, by Lanczos' method."""

from __future__ import annotations

import math
import time

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from lipguard.trusted.lmi.scaled import ScaledForm


def extreme_eigenvalues(
    form: ScaledForm, steps: int = 100, seed: int = 0, deadline: float = math.inf
) -> tuple[float, float]:
    """Estimates of the smallest and the largest eigenvalue, from inside the spectrum, by Lanczos' method.

    Nothing that is proved depends on their accuracy. Where the form is not finite they are infinite. At a deadline, of
    `time.monotonic()`, it ends with the steps that were taken.
    """
    generator = torch.Generator().manual_seed(seed)
    now = torch.randn(1, form.n, generator=generator, dtype=torch.float64).to(form.device)
    now, before = now / now.norm(), torch.zeros_like(now)
    diagonal, beside = [], [0.0]
    for _ in range(min(steps, form.n)):
        image = form(now) - beside[-1] * before
        diagonal.append(float((image * now).sum()))
        image = image - diagonal[-1] * now
        beside.append(float(image.norm()))
        if not beside[-1] > 0 or time.monotonic() > deadline:
            break
        before, now = now, image / beside[-1]
    if not np.isfinite([*diagonal, *beside]).all():
        return -math.inf, math.inf
    values = scipy.linalg.eigvalsh_tridiagonal(diagonal, beside[1 : len(diagonal)])
    return float(values[0]), float(values[-1])


def smallest_eigenvectors(
    form: ScaledForm, steps: int, count: int = 8, seed: int = 0, near: Tensor | None = None, deadline: float = math.inf
) -> tuple[Tensor, Tensor, float]:
    """Estimates of a few of the smallest eigenvalues, ascending, with their vectors, shape (count, n).

    Lanczos' method with full orthogonalisation, which keeps `steps` vectors. None where the form is not finite. The
    third value is the residual of the smallest: an eigenvalue is that near to the estimate, at least. Eigenvectors of a
    form that was a little different, `near`, make a better start than chance alone. At a deadline, of
    `time.monotonic()`, it ends with the steps that were taken.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = min(steps, form.n)
    where = form.device if _has_room(form.device, 2 * steps * form.n * form.dtype.itemsize) else torch.device("cpu")
    basis = torch.zeros(steps, form.n, dtype=form.dtype, device=where)
    now = torch.randn(form.n, generator=generator, dtype=torch.float64)
    if near is not None and len(near):
        now = 0.1 * now / now.norm() + near.sum(0)
    now = now.to(basis)
    projected = torch.zeros(steps, steps, dtype=torch.float64)
    for k in range(steps):
        basis[k] = now / now.norm()
        now = form(basis[k][None].to(form.device)).to(where)[0]
        for _ in range(2):
            along = basis[: k + 1] @ now
            projected[: k + 1, k] += along.cpu()
            now = now - along @ basis[: k + 1]
        if not float(now.norm()) > 1e3 * torch.finfo(form.dtype).eps or time.monotonic() > deadline:
            steps = k + 1
            break
    square = projected[:steps, :steps]
    if not square.isfinite().all():
        return torch.zeros(0, dtype=torch.float64), torch.zeros(0, form.n, dtype=torch.float64), math.inf
    values, vectors = torch.linalg.eigh(square.triu() + square.triu(1).T)
    residual = float(now.norm() * vectors[-1, 0].abs())
    found = vectors[:, :count].T.to(basis) @ basis[:steps]
    return values[:count], found.double().cpu(), residual


def _has_room(device: torch.device, size: int) -> bool:
    return device.type != "cuda" or size < torch.cuda.mem_get_info(device)[0]
