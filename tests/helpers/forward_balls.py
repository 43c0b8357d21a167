"""What a model makes of an input in ball arithmetic (Arb), without rounding that could be seen."""

from __future__ import annotations

from itertools import product
from typing import Any

import flint
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from helpers.networks import MaxMin, Residual

Balls = NDArray[Any]  # of flint.arb
_DIGITS = 400


def outputs(model: nn.Module, x: Tensor) -> list[flint.arb]:
    """The exact outputs for one sample, flat, to hundreds of digits."""
    before, flint.ctx.dps = flint.ctx.dps, _DIGITS
    try:
        return list(_through(model, _balls(x)).reshape(-1))
    finally:
        flint.ctx.dps = before


def is_within(found: float, error: float, exact: flint.arb) -> bool:
    """Whether |found - exact| <= error, up to what Arb leaves open."""
    before, flint.ctx.dps = flint.ctx.dps, _DIGITS
    try:
        return bool(
            abs(flint.arb(found) - exact) <= flint.arb(error) * (1 + flint.arb(10) ** -30) + flint.arb(10) ** -350
        )
    finally:
        flint.ctx.dps = before


def _balls(values: Tensor) -> Balls:
    flat = [flint.arb(float(v)) for v in values.detach().double().reshape(-1)]
    found = np.empty(len(flat), dtype=object)
    found[:] = flat
    return found.reshape(tuple(values.shape))


def _each(x: Balls, function: Any) -> Balls:
    found = np.empty(x.size, dtype=object)
    found[:] = [function(v) for v in x.reshape(-1)]
    return found.reshape(x.shape)


def _larger(a: flint.arb, b: flint.arb) -> flint.arb:
    return a if a > b else b


def _through(module: nn.Module, x: Balls) -> Balls:
    match module:
        case nn.Sequential():
            for layer in module:
                x = _through(layer, x)
            return x
        case Residual():
            return _through(module.body, x) + _through(module.skip, x)
        case nn.Linear():
            return _balls(module.weight) @ x + (0 if module.bias is None else _balls(module.bias))
        case nn.Conv2d():
            return _convolved(module, x)
        case nn.Flatten():
            return x.reshape(-1)
        case nn.Identity():
            return x
        case nn.MaxPool2d():
            k = int(module.kernel_size)  # type: ignore[arg-type]
            return _pooled(x, k)
        case MaxMin():
            pairs = [(x[i], x[i + 1]) for i in range(0, len(x), 2)]
            found = [v for a, b in pairs for v in ((a, b) if a > b else (b, a))]
            return np.array(found, dtype=object)
        case _:
            return _each(x, _function(module))


def _function(module: nn.Module) -> Any:
    zero = flint.arb(0)
    match module:
        case nn.ReLU():
            return lambda v: _larger(v, zero)
        case nn.LeakyReLU():
            slope = flint.arb(module.negative_slope)
            return lambda v: v if v > 0 else slope * v
        case nn.Hardtanh():
            low, high = flint.arb(module.min_val), flint.arb(module.max_val)
            return lambda v: low if v < low else high if v > high else v
        case nn.Tanh():
            return lambda v: v.tanh()
        case nn.Softplus():
            return lambda v: (1 + v.exp()).log()
        case nn.SiLU():
            return lambda v: v / (1 + (-v).exp())
    raise NotImplementedError(type(module).__name__)


def _convolved(module: nn.Conv2d, x: Balls) -> Balls:
    assert module.groups == 1
    weight, (pad, _), (stride, _) = _balls(module.weight), module.padding, module.stride  # type: ignore[misc]
    channels, rows, columns = x.shape
    wide = np.full((channels, rows + 2 * int(pad), columns + 2 * int(pad)), flint.arb(0), dtype=object)
    wide[:, int(pad) : int(pad) + rows, int(pad) : int(pad) + columns] = x
    k = weight.shape[2]
    out = [(n - k) // int(stride) + 1 for n in wide.shape[1:]]
    found = np.empty((len(weight), *out), dtype=object)
    for o, i, j in product(range(len(weight)), range(out[0]), range(out[1])):
        window = wide[:, i * int(stride) : i * int(stride) + k, j * int(stride) : j * int(stride) + k]
        total = (weight[o] * window).sum()
        found[o, i, j] = total if module.bias is None else total + _balls(module.bias)[o]
    return found


def _pooled(x: Balls, k: int) -> Balls:
    channels, rows, columns = x.shape
    found = np.empty((channels, rows // k, columns // k), dtype=object)
    for c, i, j in product(range(channels), range(rows // k), range(columns // k)):
        best = x[c, i * k, j * k]
        for v in x[c, i * k : (i + 1) * k, j * k : (j + 1) * k].reshape(-1):
            best = _larger(best, v)
        found[c, i, j] = best
    return found
