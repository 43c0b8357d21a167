"""Lower bounds: the largest Jacobian norm that gradient ascent finds, in float64, on the traced network.

A lower bound is below the norm of the Jacobian that it is computed from by all that floating point may have lost: for
slopes within the ranges of the activations it is never above a bound that holds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipguard.certifying.starts import promising, random_points
from lipguard.certifying.turning import Turning, slope_at
from lipguard.errors import CertificateError
from lipguard.planning.prices.passes import multiplications
from lipguard.trusted.layers import Activation, Bilinear
from lipguard.trusted.network.graph import Network
from lipguard.trusted.rounding import gamma_up

Project: TypeAlias = Callable[[Tensor], Tensor]
_Slopes: TypeAlias = dict[int, Any]  # by node: tensors, or what turns directions

_STEPS = 30
_KEPT, _FRESH = 8, 2  # the best points, and others, that the next search starts from
_FIRST_POWER_STEPS, _POWER_STEPS = 6, 2  # of the Jacobian's top direction, which changes little from step to step
_STEP = 12  # passes that a step of ascent counts as
_JITTER = 1e-3
_STRIDE = 0.1  # of the length of a point, shrinking to none at the last step
_WORK = 1e8  # entries to compute, over all points and passes: large networks get fewer steps
_WARM_WORK = 2.5e6
_SEARCH_WORK, _SEARCH_POWER_STEPS = 1e7, 1  # of the search for other points
_LAST_STEPS = 10  # of ascent from those
_PER_ENTRY = 20  # multiplications that take as long as an entry
_STRAY = 1e-6  # how far a computed slope may be outside of its range, relative to it: automatic differentiation rounds
_SLOPE_ERROR = 2.0**-49  # of a computed slope within its range, relative to the largest
_UNDERFLOW = 2.0**-1021  # more than all that the roundings of an entry lose below the smallest normal number
_ENTRIES_PER_SECOND = 2e6  # that is left
_ENTRIES = 2e7  # over all points at once: the largest networks get fewer of them


def lower_bound(network: Network, data: Tensor | None = None, seed: int = 0, steps: int = _STEPS) -> float:
    """The largest spectral norm of the Jacobian found: a Lipschitz constant cannot be below it.

    Args:
        network: the traced network.
        data: points to start from, shape (points, *input_shape); standard normal ones where there are none.
        seed: of the points and of the jitter that keeps them off the kinks of the activations, where the Jacobian
            that automatic differentiation picks need not be one of the function.
        steps: the most steps of ascent. A step function's slope has no gradient; a smooth stand-in gives the direction.

    Raises:
        CertificateError: an activation has a slope that is not in its range, so that every bound is wrong.
    """
    start = random_points(network.input_shape, data, seed, _JITTER)
    return _sought(network, start, seed, steps, (_WORK, _SEARCH_WORK))[0]


def warm_lower_bound(
    network: Network,
    data: Tensor | None,
    seed: int,
    points: NDArray[np.float64] | None,
    deadline: float = math.inf,
    project: Project | None = None,
) -> tuple[float, NDArray[np.float64]]:
    """A lower bound, and the points to go on from when the weights have changed a little.

    Args:
        network: the traced network.
        data: points for a first start, as for `lower_bound`.
        seed: of the start.
        points: where an earlier search for this architecture ended; a few steps from there do.
        deadline: of `time.monotonic()`, after which no step begins but the first.
        project: onto the inputs that count; None where all do.

    Raises:
        CertificateError: as `lower_bound`.
    """
    if points is not None and points.shape[1:] == network.input_shape and len(points) and np.isfinite(points).all():
        fresh = random_points(network.input_shape, data, seed, _JITTER)[:_FRESH]
        start, work = torch.cat([torch.from_numpy(np.array(points)), fresh]), (_WARM_WORK, _WARM_WORK)
    else:
        start, work = random_points(network.input_shape, data, seed, _JITTER), (_WORK, _SEARCH_WORK)
    start = start if time.monotonic() < deadline else start[:1]
    best, x = _sought(network, start, seed, _STEPS, work, deadline, project)
    return best, x.numpy()


def _sought(
    network: Network, start: Tensor, seed: int, steps: int, work: tuple[float, float], deadline: float = math.inf,
    project: Project | None = None,
) -> tuple[float, Tensor]:  # fmt: skip
    """By ascent from some points, and then, in the second part of the work, by a search from where that ended."""
    best, ends = ascend(network, start, seed, steps, work[0], deadline, project)
    if time.monotonic() > deadline:
        return best, ends

    def score(x: Tensor) -> Tensor:
        slopes, _ = _slopes(network, x if project is None else project(x))
        v = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 2), dtype=torch.float64)
        v = _top_direction(network, slopes, v, _SEARCH_POWER_STEPS, deadline)
        found: Tensor = _jacobian_times(network, slopes, v).reshape(len(v), -1).norm(dim=1) / v.flatten(1).norm(dim=1)
        return found

    entries = sum(node.size for node in network.nodes) + multiplications(network) / _PER_ENTRY
    found = promising(score, torch.cat([ends, start]), entries, seed + 3, work[1], deadline)
    if not len(found) or time.monotonic() > deadline:
        return best, ends
    other, others = ascend(network, found, seed, min(steps, _LAST_STEPS), work[0], deadline, project)
    both = torch.cat([others, ends] if other > best else [ends, others])
    return max(best, other), both[:_KEPT]


def ascend(
    network: Network, x: Tensor, seed: int, steps: int, work: float = _WORK, deadline: float = math.inf,
    project: Project | None = None,
) -> tuple[float, Tensor]:  # fmt: skip
    """Gradient ascent of the Jacobian's norm from the points `x`, shape (points, *input_shape), of float64."""
    entries = sum(node.size for node in network.nodes)
    most = min(_ENTRIES, _ENTRIES_PER_SECOND * max(deadline - time.monotonic(), 0.0))
    x = x[: max(1, int(most / entries))]
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    found = 0.0
    best: tuple[_Slopes, Tensor] | None = None  # the slopes and the direction of what was found
    cost = _STEP * len(x) * entries
    steps = max(1, min(steps, int(work / cost)))
    for k in range(steps):
        if k and time.monotonic() > deadline:
            break
        x = x if project is None else project(x)
        slopes, smooth = _slopes(network, x)
        v = _top_direction(network, slopes, v, _POWER_STEPS if k else _FIRST_POWER_STEPS, deadline)
        norms = _jacobian_times(network, slopes, v).reshape(len(v), -1).norm(dim=1) / v.flatten(1).norm(dim=1)
        norms = norms.nan_to_num(0.0, posinf=0.0)
        highest = int(norms.argmax())
        if float(norms[highest]) > found:
            found = float(norms[highest])
            best = {i: slope[highest, None].clone() for i, slope in slopes.items()}, v[highest, None].clone()
        if time.monotonic() > deadline:
            break
        direction = _ascent_direction(network, x, v, slopes, smooth)
        length = direction.flatten(1).norm(dim=1).clamp_min(1e-300)
        stride = _STRIDE * (1 - k / steps) * x.flatten(1).norm(dim=1).clamp_min(1e-12)
        x = x + direction * (stride / length).reshape(-1, *(1 for _ in network.input_shape))
    return 0.0 if best is None else _certain(network, *best), x[norms.argsort(descending=True)[:_KEPT]]


def _certain(network: Network, slopes: _Slopes, v: Tensor) -> float:
    """|J v| / |v| less all that it may be off by, for one direction `v`, shape (1, *input_shape); never negative.

    The magnitude of every value is carried through the network, and its error: that of what it is computed from, and
    what its own roundings add (Higham 2002, section 3.1). The slopes are off by a little, too.
    """

    def step(i: int, inputs: tuple[Tensor, ...]) -> Tensor:
        layer = network.nodes[i].layer
        if isinstance(slopes.get(i), Turning):
            moved, lost = slopes[i].carried(inputs)
        elif isinstance(layer, Activation):
            moved = _turned(slopes[i].abs(), inputs[0])
            steepest = layer.lipschitz if math.isfinite(layer.lipschitz) else float(slopes[i].abs().max())
            lost = gamma_up(2 * layer.group) * moved[0] + _SLOPE_ERROR * steepest * _summed(layer, inputs[0][0])
        else:
            moved = layer.absolute().linear(*inputs)
            lost = gamma_up(max(layer.roundings(), len(inputs) - 1)) * moved[0]
        return torch.stack([moved[0], moved[1] + lost + _UNDERFLOW])

    size = v.abs()
    error = _length(network.run(torch.cat([size, torch.zeros_like(size)]), step)[1])
    image, length = _length(_jacobian_times(network, slopes, v)), _length(v)
    certain = (image * (1 - 1e-9) - error * (1 + 1e-3)) / length  # roundings of the norms, and of the errors
    return certain * (1 - 1e-15) if 0 < certain < math.inf else 0.0


def _length(v: Tensor) -> float:
    """|v|, whatever its scale."""
    largest = float(v.abs().max())
    return largest * float((v / largest).norm()) if 0 < largest < math.inf else largest


def _summed(layer: Activation, size: Tensor) -> Tensor:
    return size if layer.group == 1 else size.sum(-1, keepdim=True).expand_as(size)


def _slopes(network: Network, x: Tensor) -> tuple[_Slopes, dict[int, float]]:
    """The derivative of every activation at the points, and the width over which to smooth its kink.

    Of the groups of one the derivative is a matrix: what they answer is no function of single entries.
    """
    slopes: _Slopes = {}
    widths: dict[int, float] = {}

    def step(i: int, inputs: tuple[Tensor, ...]) -> Tensor:
        layer = network.nodes[i].layer
        turning = Turning.of(layer, inputs)
        if turning is not None:
            slopes[i] = turning
        if turning is not None or not isinstance(layer, Activation):
            return layer.forward(*inputs)
        a = inputs[0].detach().requires_grad_()
        with torch.enable_grad():
            b = layer.forward(a)
            if layer.group > 1:  # a matrix for every group, shape (.., group, group)
                rows = [torch.autograd.grad(b[..., k].sum(), a, retain_graph=True)[0] for k in range(layer.group)]
                slope = torch.stack(rows, -2)
            else:
                slope = torch.autograd.grad(b.sum(), a)[0]
        slopes[i] = _within_range(layer, slope, network.nodes[i].path)
        widths[i] = 0.3 * float(a.detach().std(correction=0)) + 1e-12
        return b.detach()

    network.run(x, step)
    return slopes, widths


def _within_range(layer: Activation, slope: Tensor, path: str) -> Tensor:
    """Computed slopes in the range that the activation is known to have, into which rounding may have to move them.

    Raises:
        CertificateError: one is further away.
    """
    if layer.group > 1:
        return slope  # nothing is known of single entries
    slope = torch.where(slope.isfinite(), slope, math.nan)  # which shows nothing
    moved = slope.clamp(layer.alpha, layer.beta)
    away = (slope - moved).abs().nan_to_num(0.0)
    if bool((away > _STRAY * layer.lipschitz).any()):
        worst = float(slope.flatten()[away.argmax()])
        raise CertificateError(
            f"{path}: {layer.name} has the slope {worst!r} at a point, outside of its range [{layer.alpha!r}, "
            f"{layer.beta!r}]: a bound would be false. Correct the slope if you registered it, or report this layer."
        )
    return moved


def _jacobian_times(network: Network, slopes: _Slopes, v: Tensor) -> Tensor:
    def step(i: int, inputs: tuple[Tensor, ...]) -> Tensor:
        if isinstance(slopes.get(i), Turning):
            return slopes[i](*inputs)  # type: ignore[no-any-return]
        layer = network.nodes[i].layer
        return _turned(slopes[i], inputs[0]) if isinstance(layer, Activation) else layer.linear(*inputs)

    return network.run(v, step)


def _turned(slope: Tensor, a: Tensor) -> Tensor:
    """What an activation does to a direction: its slopes, or a matrix for every group."""
    return slope * a if slope.dim() == a.dim() else torch.einsum("...ij,...j->...i", slope, a)


def _top_direction(network: Network, slopes: _Slopes, v: Tensor, steps: int, deadline: float = math.inf) -> Tensor:
    """Power iteration on J'J, for all points at once; any direction shows a lower bound, so a deadline ends it."""
    for _ in range(steps):
        if time.monotonic() > deadline:
            break
        with torch.enable_grad():
            probe = v.detach().requires_grad_()
            y = _jacobian_times(network, slopes, probe)
            w = torch.autograd.grad((y * y.detach()).sum(), probe)[0]
        norm = w.flatten(1).norm(dim=1).reshape(-1, *(1 for _ in network.input_shape))
        v = torch.where(norm > 1e-300, w / norm.clamp_min(1e-300), v)
    return v


def _ascent_direction(network: Network, x: Tensor, v: Tensor, slopes: _Slopes, widths: dict[int, float]) -> Tensor:
    """Gradient of |J(x) v|^2 in x, with every slope replaced by a smooth step between its extremes."""
    tangents = {0: v}
    with torch.enable_grad():
        point = x.detach().requires_grad_()

        def step(i: int, inputs: tuple[Tensor, ...]) -> Tensor:
            node = network.nodes[i]
            moved = [tangents[j] for j in node.inputs]
            if isinstance(node.layer, Bilinear):
                tangents[i] = node.layer.at(inputs, tuple(moved))
            elif isinstance(slopes.get(i), Turning):
                tangents[i] = slopes[i](*moved)
            elif isinstance(node.layer, Activation) and node.layer.group > 1:
                tangents[i] = _turned(slopes[i], moved[0])
            elif isinstance(node.layer, Activation) and not math.isfinite(node.layer.lipschitz):
                tangents[i] = slope_at(node.layer, inputs[0]) * moved[0]
            elif isinstance(node.layer, Activation):
                slope = node.layer.alpha + (node.layer.beta - node.layer.alpha) * torch.sigmoid(inputs[0] / widths[i])
                tangents[i] = slope * moved[0]
            else:
                tangents[i] = node.layer.linear(*moved)
            return node.layer.forward(*inputs)

        network.run(point, step)
        value = tangents[len(network.nodes) - 1].square().sum()
        if not value.requires_grad:  # nothing depends on the point: an affine network
            return torch.zeros_like(x)
        return torch.autograd.grad(value, point, allow_unused=True)[0].nan_to_num(0.0, posinf=0.0, neginf=0.0)
