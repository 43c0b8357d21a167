"""Radii that logits and constants of margins certify.

No class but i is predicted within the distance (f_i(x) - f_j(x)) / L_ij, the smallest over j, of x, where L_ij bounds
the Lipschitz constant of f_i - f_j (Tsuzuku, Sato and Sugiyama, 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor

# The coarsest format first: what all numbers of a tensor fit is what they were computed in.
ROUNDING = {torch.bfloat16: 2.0**-3, torch.float16: 2.0**-6, torch.float32: 2.0**-13, torch.float64: 2.0**-40}
ROUNDING_OF_TF32 = 2.0**-9


def certified_radii(logits: Tensor, constants: Tensor, error: Tensor | float | None = None) -> Tensor:
    """The smallest (f_i - f_j) / L_ij over j, i being the prediction; see `Margins.certified_radius`.

    Raises:
        ValueError: the shapes do not fit, a constant is negative or nan, or an error is.
    """
    classes = len(constants)
    if logits.dim() != 2 or logits.shape[1] != classes or constants.shape != (classes, classes):
        raise ValueError(f"Expected logits of shape (n, {classes}), but got {tuple(logits.shape)}.")
    if not bool((constants >= 0).all()):
        raise ValueError("Expected constants of margins that are not negative.")
    off = assumed_error(logits) if error is None else _checked_error(error, logits)  # (n, 1) or (n, classes)
    off = off.expand(logits.shape)
    logits, constants = logits.detach().double(), constants.to(logits.device, torch.float64)
    best, predicted = logits.max(1)
    gap = _below(best[:, None] - logits)
    gap = _below(gap - _above(off.gather(1, predicted[:, None]) + off))
    below = _below(gap.clamp_min(0.0) / constants[predicted]).clamp_min(0.0)
    below = torch.where(gap > 0, below, torch.zeros_like(gap))  # a tie is not certified, whatever the constant
    others = torch.arange(classes, device=logits.device) != predicted[:, None]
    found = torch.where(others, below, torch.inf).amin(1)
    known = torch.isfinite(logits).all(1) & torch.isfinite(found)
    return torch.where(known, found, torch.zeros_like(found))


def assumed_error(logits: Tensor) -> Tensor:
    """How far logits may be off that come without a proof, shape (n, 1): a share of the largest magnitude of a sample.

    The share goes by the precision: 2^-40 of float64, 2^-13 of float32 (2^-9 where TF32 may have been used, and as of
    bfloat16 where `torch.set_float32_matmul_precision("medium")` allows that), 2^-6 of float16, 2^-3 of bfloat16.
    Numbers that are all those of a narrower format were computed in it. This is an assumption about networks of
    ordinary depth and weights; what it has to hold for is the forward pass that made them.
    """
    return _above(logits.detach().double().abs().amax(1, keepdim=True) * assumed_rounding(logits))


def assumed_rounding(logits: Tensor) -> float:
    """The share of `assumed_error`.

    Raises:
        ValueError: logits of this type have none.
    """
    values = logits.detach()
    if values.is_complex() or (values.is_floating_point() and values.dtype not in ROUNDING):
        raise ValueError(f"Expected logits of {', '.join(map(str, ROUNDING))}, but got {values.dtype}.")
    values = values if values.is_floating_point() else values.double()
    known = torch.isfinite(values)

    def fits(dtype: torch.dtype) -> bool:
        return dtype == values.dtype or bool(((values.to(dtype).to(values.dtype) == values) | ~known).all())

    found = next(dtype for dtype in ROUNDING if fits(dtype))
    return _rounding_of_float32(logits.device) if found == torch.float32 else ROUNDING[found]


def _rounding_of_float32(device: torch.device) -> float:
    """Products of float32 may have fewer digits: where torch was told so, or on an accelerator."""
    asked = torch.get_float32_matmul_precision()
    if asked == "medium":
        return ROUNDING[torch.bfloat16]
    coarse = asked != "highest" or device.type != "cpu" or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return ROUNDING_OF_TF32 if coarse else ROUNDING[torch.float32]


def _checked_error(error: Tensor | float, logits: Tensor) -> Tensor:
    found = torch.as_tensor(error, dtype=torch.float64, device=logits.device).detach()
    if found.shape not in ((), logits.shape[:1], logits.shape):
        raise ValueError(
            f"Expected error to be a number, or of the shape {tuple(logits.shape[:1])} or {tuple(logits.shape)}, but "
            f"got the shape {tuple(found.shape)}."
        )
    if not bool((found >= 0).all()):
        raise ValueError("Expected error to be a bound of how far logits are off, but some of it is negative or nan.")
    return found[:, None] if found.dim() == 1 else found


def _below(value: Tensor) -> Tensor:
    return torch.nextafter(value, torch.full_like(value, -torch.inf))


def _above(value: Tensor) -> Tensor:
    return torch.nextafter(value, torch.full_like(value, torch.inf))
