"""Functions of all entries of a group at once, each divided by its Lipschitz constant.

A group is the last axis. What is emitted behind such a layer multiplies by the constant, which every maker returns
beside it. What is one number per group is the first entry of a group whose other entries are zero.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lipguard.trusted.layers.activation import Activation
from lipguard.trusted.layers.functions import ParameterError
from lipguard.trusted.layers.ranged import Ranged

_UP = 1 + 2.0**-50  # a root rounded up or down by this much more than it can be off


def softmax(size: int) -> tuple[Activation, float]:
    """e^x_i / sum e^x_j, with the constant 1/2.

    The Jacobian is diag(p) - p p', and v' (diag(p) - p p') v is the variance of the numbers v_i with probabilities p_i.
    A variance is at most a quarter of the square of max v - min v (Popoviciu), which is at most 2 |v|^2. One number
    alone is 1.
    """
    return _group("softmax", size, partial(_softmax, factor=2.0), partial(_softmax_image, factor=2.0)), 0.5


def log_softmax(size: int) -> tuple[Activation, float]:
    """x_i - log sum e^x_j, with the constant sqrt(n) for n entries.

    The Jacobian is I - 1 p'. A norm is convex, so it is largest at a corner of the simplex, p = e_1, where the map is
    v -> (0, v_2 - v_1, .., v_n - v_1), of norm sqrt(n): the matrix [-1, I] has the Gram matrix I + 1 1'. No smaller
    number would do, for p comes as close to e_1 as one likes.
    """
    root = math.sqrt(size) * _UP
    return _group("log_softmax", size, partial(_log_softmax, root=root)), root


def is_softmax(layer: Activation) -> bool:
    """Whether it is softmax or its logarithm, which do not change which entry of a group is the largest."""
    function = layer.function.func if isinstance(layer.function, partial) else layer.function
    return function is _softmax or function is _log_softmax


def logsumexp(size: int) -> tuple[Activation, float]:
    """log sum e^x_j: the gradient is the softmax p, and |p|_2 <= |p|_1 = 1."""
    return _group("logsumexp", size, _logsumexp, _logsumexp_image), 1.0


def length(size: int, order: float = 2.0) -> tuple[Activation, float]:
    """|x|_p: | |u| - |v| | <= |u - v|_p, which is at most |u - v|_2 for p >= 2, and n^(1/p - 1/2) times that below.

    Raises:
        ParameterError: it is no norm, for p < 1.
    """
    if not order >= 1:
        raise ParameterError(f"norm has p={order:g}, which is no norm. Set p to 1 or more.")
    constant = 1.0 if order >= 2 else size ** (1 / order - 0.5) * _UP**4
    function = partial(_length, order=order, divisor=constant)
    return _group(f"{order:g}-norm", size, function, partial(_norm_image, function)), constant


def smooth_length(size: int, eps: float) -> tuple[Activation, float]:
    """sqrt(eps + |x|^2), for eps >= 0: the gradient x / sqrt(eps + |x|^2) is no longer than 1."""
    function = partial(_smooth_norm, eps=eps)
    return _group("sqrt(eps + |x|^2)", size, function, partial(_norm_image, function)), 1.0


def eps_of_length(layer: Activation) -> float | None:
    """The eps of a `smooth_length`; None of another function."""
    function: object = layer.function
    if not isinstance(function, partial) or function.func is not _smooth_norm:
        return None
    return float(function.keywords["eps"])


def root_mean_square(size: int, eps: float) -> tuple[Activation, float]:
    """x / s with s = sqrt(|x|^2 / n + eps), with the constant 1 / sqrt(eps).

    The Jacobian is (I - x x' / (n s^2)) / s: its eigenvalues are 1 / s across x, and eps / s^3 along it. Both are at
    most 1 / s, and s is at least sqrt(eps), or what the smallest |x| on a domain makes of it.

    Raises:
        ParameterError: eps is not positive.
    """
    _check_eps("eps", eps)
    root = math.sqrt(eps) / _UP
    function = partial(_root_mean_square, eps=eps, root=root)
    within = partial(_least_scale, size=size, eps=eps, root=root)
    image = partial(_scaled_image, size=size, eps=eps, root=root)
    return _group("x / rms(x)", size, function, image, within), root


def standardised(size: int, eps: float) -> tuple[Activation, float]:
    """(x - mean) / s with s = sqrt(variance + eps): what `root_mean_square` is of x - mean, which is a projection."""
    _check_eps("eps", eps)
    root = math.sqrt(eps) / _UP
    function = partial(_standardised, eps=eps, root=root)
    return _group("(x - mean) / std(x)", size, function, partial(_limited, limit=root * math.sqrt(size) * _UP)), root


def direction(size: int, eps: float) -> tuple[Activation, float]:
    """x / max(|x|, eps), with the constant 1 / eps.

    Within |x| <= eps it is x / eps; beyond, the Jacobian is the projection across x, divided by |x|.

    Raises:
        ParameterError: eps is not positive.
    """
    _check_eps("eps", eps)
    function = partial(_direction, eps=eps)
    return _group("x / |x|", size, function, partial(_limited, limit=eps), partial(_least_length, eps=eps)), eps


def _check_eps(name: str, eps: float) -> None:
    if not (math.isfinite(eps) and eps >= sys.float_info.min):
        raise ParameterError(
            f"{name}={eps:g}: without a positive one it has no Lipschitz constant. Set {name} above 0."
        )


_Ends = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _group(
    name: str, size: int, function: Callable[[Tensor], Tensor], image: _Ends | None = None, within: _Ends | None = None
) -> Activation:  # fmt: skip
    return Ranged(name, -1.0, 1.0, function, size, within, image=image)


def _softmax(x: Tensor, factor: float) -> Tensor:
    return factor * torch.softmax(x, -1)


def _log_softmax(x: Tensor, root: float) -> Tensor:
    return torch.log_softmax(x, -1) / root


def _first(value: Tensor, like: Tensor) -> Tensor:
    """One number per group, shape (.., 1), as the first entry of it."""
    return torch.cat([value, torch.zeros_like(like[..., 1:])], -1)


def _logsumexp(x: Tensor) -> Tensor:
    return _first(torch.logsumexp(x, -1, keepdim=True), x)


def _length(x: Tensor, order: float, divisor: float) -> Tensor:
    return _first(torch.linalg.vector_norm(x, order, -1, keepdim=True) / divisor, x)


def _smooth_norm(x: Tensor, eps: float) -> Tensor:
    return _first(torch.sqrt(x.square().sum(-1, keepdim=True) + eps), x)


def _root_mean_square(x: Tensor, eps: float, root: float) -> Tensor:
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)  # (.., 1)
    found: Tensor = root * x * scale
    return found


def _standardised(x: Tensor, eps: float, root: float) -> Tensor:
    return _root_mean_square(x - x.mean(-1, keepdim=True), eps, root)


def _direction(x: Tensor, eps: float) -> Tensor:
    found: Tensor = eps * x / torch.linalg.vector_norm(x, 2, -1, keepdim=True).clamp_min(eps)
    return found


def _nearest(low: Tensor, high: Tensor) -> Tensor:
    """The smallest magnitudes on intervals."""
    return torch.where((low <= 0) & (high >= 0), 0.0, torch.minimum(low.abs(), high.abs()))


def _logsumexp_image(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """It rises with every entry; where it is next to zero, digits are lost."""
    least, most = _logsumexp(low), _logsumexp(high)
    return least - 1e-12 * (1 + least.abs()), most + 1e-12 * (1 + most.abs())


def _norm_image(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return function(_nearest(low, high)), function(torch.maximum(low.abs(), high.abs()))


def _limited(low: Tensor, high: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    return torch.full_like(low, -limit), torch.full_like(high, limit)


def _softmax_image(low: Tensor, high: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """p_i is largest where x_i is, and all others are smallest; sums over others are bounded outward."""

    def others(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # largest entry, and below and above sum_j!=i e^(x_j - it)
        top = x.amax(-1, keepdim=True)
        own = torch.exp(x - top)
        rest, lost = own.sum(-1, keepdim=True) - own, 1e-12 * own.sum(-1, keepdim=True)
        return top, (rest - lost).clamp_min(0.0), rest.clamp_min(0.0) + lost

    fewest, below, _ = others(low)
    most, _, above = others(high)
    largest = 1 / (1 + below * torch.exp(fewest - high))
    smallest = 1 / (1 + above * torch.exp(most - low))
    return factor * smallest.nan_to_num(nan=0.0), factor * largest.nan_to_num(nan=1.0)


def _least_scale(low: Tensor, high: Tensor, size: int, eps: float, root: float) -> tuple[Tensor, Tensor]:
    least = torch.sqrt(_nearest(low, high).square().sum(-1, keepdim=True) / size + eps)
    most = (root / least * (1 + 1e-12)).clamp(max=1.0).expand_as(low)
    return -most, most


def _least_length(low: Tensor, high: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    least = torch.linalg.vector_norm(_nearest(low, high), 2, -1, keepdim=True).clamp_min(eps)
    most = (eps / least * (1 + 1e-12)).clamp(max=1.0).expand_as(low)
    return -most, most


def _scaled_image(low: Tensor, high: Tensor, size: int, eps: float, root: float) -> tuple[Tensor, Tensor]:
    """x_i / s rises with x_i, and its magnitude falls with those of all others, which may be the nearest to zero."""
    nearest = _nearest(low, high).square()
    total = nearest.sum(-1, keepdim=True)
    rest = ((total - nearest) * (1 - 1e-12) - 1e-12 * total).clamp_min(0.0)

    def end(x: Tensor) -> Tensor:
        y = root * x * torch.rsqrt((x.square() + rest) / size + eps)
        return torch.where(x.abs() < 1e100, y, x.sign() * root * math.sqrt(size) * _UP)

    return end(low).clamp(max=0.0), end(high).clamp(min=0.0)
