"""The element-wise functions, each with its slopes and where they come from."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from lipguard.trusted.layers import slopes
from lipguard.trusted.layers.activation import Activation


class ParameterError(ValueError):
    """A parameter of an activation with which it has no Lipschitz constant, or none that is known here."""


def _number(layer: str, parameter: str, value: object) -> float:
    """A parameter as the float that it is.

    Raises:
        ParameterError: it is not finite.
        TypeError: it is no number.
    """
    if isinstance(value, Tensor) and _is_scalar(value):
        value = value.detach().item()
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{parameter} of {layer} is a {type(value).__name__}, where a number is expected")
    if not math.isfinite(value):
        raise ParameterError(f"{parameter} of {layer} is {float(value)}, which is no number. Set a finite one.")
    return float(value)


def _limits(layer: str, low: object, high: object, names: tuple[str, str]) -> tuple[float, float]:
    """Two limits in order; the lower one may be -inf, and the upper one inf."""
    least = -math.inf if _is_infinite(low, -math.inf) else _number(layer, names[0], low)
    most = math.inf if _is_infinite(high, math.inf) else _number(layer, names[1], high)
    if least > most:
        raise ParameterError(
            f"{layer} has {names[0]}={least:g} above {names[1]}={most:g}, which is no interval. Exchange them."
        )
    return least, most


def _is_infinite(value: object, infinity: float) -> bool:
    return bool(value == infinity) if isinstance(value, numbers.Real) or _is_scalar(value) else False


def _is_scalar(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()


def _stepwise(kinks: tuple[float, ...], pieces: tuple[float, ...]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return partial(slopes.stepwise, kinks=kinks, slopes=pieces)


def relu() -> Activation:
    """max(x, 0): slopes in [0, 1]."""
    return Activation("relu", 0.0, 1.0, torch.relu, within=_stepwise((0.0,), (0.0, 1.0)))


def leaky_relu(negative_slope: float = 0.01) -> Activation:
    """x where positive, negative_slope * x elsewhere: slopes between the two."""
    slope = _number("LeakyReLU", "negative_slope", negative_slope)
    low, high = sorted((slope, 1.0))
    within = _stepwise((0.0,), (slope, 1.0))
    return Activation("leaky_relu", low, high, partial(F.leaky_relu, negative_slope=slope), within=within)


def tanh() -> Activation:
    """Derivative 1 - tanh^2 in (0, 1]."""
    return Activation("tanh", 0.0, 1.0, torch.tanh, within=slopes.tanh)


def inverse_sinh() -> Activation:
    """asinh x: derivative 1 / sqrt(1 + x^2) in (0, 1]."""
    return Activation("asinh", 0.0, 1.0, torch.asinh)


def sigmoid() -> Activation:
    """Derivative s (1 - s) in (0, 1/4]."""
    return Activation("sigmoid", 0.0, 0.25, torch.sigmoid, within=slopes.sigmoid)


def elu(alpha: float = 1.0) -> Activation:
    """x where positive, alpha (e^x - 1) elsewhere: derivative 1, or alpha e^x between 0 and alpha, of either sign."""
    alpha = _number("ELU", "alpha", alpha)
    within = partial(slopes.elu, alpha=alpha)
    return Activation(f"elu({alpha})", min(0.0, alpha), max(1.0, alpha), partial(F.elu, alpha=alpha), within=within)


def absolute() -> Activation:
    """|x|: slopes in [-1, 1]."""
    return Activation("absolute", -1.0, 1.0, torch.abs, within=_stepwise((0.0,), (-1.0, 1.0)))


_GELU = {
    "none": (-0.12890414518515480, 1.1289041451851549),
    "tanh": (-0.12899306865877178, 1.1289930686587718),
}


def gelu(approximate: str = "none") -> Activation:
    """x Phi(x): the derivative Phi(x) + x phi(x) has its extremes at +-sqrt(2), for phi(x) (2 - x^2) = 0 there.

    The tanh form has them at +-1.4185.... Bounds are the exact extremes, to forty digits, rounded outward.
    """
    if approximate not in _GELU:
        raise ParameterError(f"GELU has approximate={approximate!r}, which is unknown. Set 'none' or 'tanh'.")
    return Activation(f"gelu({approximate})", *_GELU[approximate], partial(F.gelu, approximate=approximate))


def silu() -> Activation:
    """x sigmoid(x): the derivative s (1 + x (1 - s)) has its extremes at +-2.39935..."""
    return Activation("silu", -0.09983932012886694, 1.0998393201288671, F.silu)


def mish() -> Activation:
    """x tanh(softplus(x)): the derivative has its extremes at 1.49057... and -2.25637..."""
    return Activation("mish", -0.11252612238946258, 1.0884981612517280, F.mish)


def hardswish() -> Activation:
    """x (x + 3) / 6 between -3 and 3, with the derivative (2 x + 3) / 6, and 0 or x beyond."""
    return Activation("hardswish", -0.5, 1.5, F.hardswish)


def hardsigmoid() -> Activation:
    """(x + 3) / 6 between 0 and 1; the slope is above the float that 1/6 rounds to."""
    return Activation("hardsigmoid", 0.0, 0.16666666666666669, F.hardsigmoid)


def hardtanh(min_val: float = -1.0, max_val: float = 1.0) -> Activation:
    """x between two limits, either of which may be infinite, and these beyond: slopes 0 and 1."""
    low, high = _limits("Hardtanh", min_val, max_val, ("min_val", "max_val"))
    within = _stepwise((low, high), (0.0, 1.0, 0.0))
    return Activation("hardtanh", 0.0, 1.0, partial(F.hardtanh, min_val=low, max_val=high), within=within)


def clamp(low: float, high: float) -> Activation:
    """x between two limits, either of which may be infinite, and these beyond: slopes 0 and 1."""
    low, high = _limits("clamp", low, high, ("min", "max"))
    within = _stepwise((low, high), (0.0, 1.0, 0.0))
    return Activation("clamp", 0.0, 1.0, partial(torch.clamp, min=low, max=high), within=within)


def relu6(min_val: float = 0.0, max_val: float = 6.0) -> Activation:
    """x between 0 and 6, and these beyond: slopes 0 and 1. The limits of a module may have been changed."""
    if (min_val, max_val) != (0.0, 6.0):
        return hardtanh(min_val, max_val)
    return Activation("relu6", 0.0, 1.0, F.relu6, within=_stepwise((0.0, 6.0), (0.0, 1.0, 0.0)))


_LEAST_THRESHOLD = 20.0  # torch's own


def softplus(beta: float = 1.0, threshold: float = 20.0) -> Activation:
    """log(1 + e^(beta x)) / beta: the derivative is a sigmoid, of beta x, whatever the sign of beta.

    Where beta x is above the threshold torch returns x, which is a jump of log(1 + e^-threshold) / |beta|, and has no
    constant. What is meant is the function without it.
    """
    beta = _number("Softplus", "beta", beta)
    if beta == 0:
        raise ParameterError("Softplus has beta=0, by which it divides. Set another one.")
    threshold = math.inf if _is_infinite(threshold, math.inf) else _number("Softplus", "threshold", threshold)
    jump = math.log1p(math.exp(-max(threshold, -700.0))) / abs(beta)
    if threshold < _LEAST_THRESHOLD:
        raise ParameterError(
            f"Softplus has threshold={threshold:g}, where it jumps by {jump:.2g}, and has no Lipschitz constant. Set "
            f"threshold={_LEAST_THRESHOLD:g} or more."
        )
    note = f"softplus without its threshold: torch returns x where beta x > {threshold:g}, at most {jump:.1e} away"
    function = partial(F.softplus, beta=beta, threshold=threshold)
    within = partial(slopes.softplus, beta=beta)
    return Activation("softplus", 0.0, 1.0, function, within=within, note=note if jump > 0 else "")


def softsign() -> Activation:
    """x / (1 + |x|): derivative 1 / (1 + |x|)^2 in (0, 1]."""
    return Activation("softsign", 0.0, 1.0, F.softsign)


def log_sigmoid() -> Activation:
    """log sigmoid(x): derivative sigmoid(-x) in (0, 1)."""
    return Activation("log_sigmoid", 0.0, 1.0, F.logsigmoid)


def tanhshrink() -> Activation:
    """x - tanh x: derivative tanh^2 in [0, 1)."""
    return Activation("tanhshrink", 0.0, 1.0, F.tanhshrink)


def softshrink(lambd: float = 0.5) -> Activation:
    """x moved towards zero by lambd, and zero near it: slopes 0 and 1. It is continuous for lambd >= 0 only."""
    lambd = _number("Softshrink", "lambd", lambd)
    if lambd < 0:
        raise ParameterError(f"Softshrink has lambd={lambd:g}, where it jumps. Set lambd to 0 or more.")
    within = _stepwise((-lambd, lambd), (1.0, 0.0, 1.0))
    return Activation("softshrink", 0.0, 1.0, partial(F.softshrink, lambd=lambd), within=within)


def selu() -> Activation:
    """scale x where positive, scale alpha (e^x - 1) elsewhere: derivatives scale, and up to scale alpha = 1.7581."""
    return Activation("selu", 0.0, 1.7580993408473773, F.selu)


def celu(alpha: float = 1.0) -> Activation:
    """x where positive, alpha (e^(x / alpha) - 1) elsewhere: derivative 1, or e^(x / alpha), below 1 for alpha > 0."""
    alpha = _number("CELU", "alpha", alpha)
    if alpha < 0:
        raise ParameterError(
            f"CELU has alpha={alpha:g}, with which its slope e^(x / alpha) grows without bound. Set alpha above 0."
        )
    if alpha < sys.float_info.min:  # torch multiplies by 1 / alpha
        raise ParameterError(f"CELU has alpha={alpha:g}, by which it divides. Set alpha well above 0.")
    return Activation("celu", 0.0, 1.0, partial(F.celu, alpha=alpha))
