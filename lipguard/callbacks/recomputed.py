"""Logits computed anew in float64, by the network that is bounded, for what a validation showed; what they certify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from lipguard.callbacks.validated import Samples
from lipguard.certifying.hints import HINTS
from lipguard.certifying.margins import Margins
from lipguard.certifying.radii import ROUNDING, ROUNDING_OF_TF32, certified_radii
from lipguard.metrics.certified_accuracy import signed_radii
from lipguard.trusted.network.graph import Network
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.regions.values import values, work_of

Curve: TypeAlias = tuple[list[float], list[float]]  # radii, and the share that is certified at each

_MOST_WORK = 5e9  # multiplications of one float64 pass over the samples: some seconds on one core
_CURVE = 50  # steps of radius
_FEW = 4  # samples that are computed however large the network is
_LARGE_ERROR = 2.0**-20  # of the spread of a sample's logits: from there on norms are worth their time


@dataclass(frozen=True, eq=False)
class Recomputed:
    """Logits of the network that is bounded, beside those that were seen.

    Attributes:
        logits: float64, shape (n, classes); as seen where they were not computed.
        error: of each entry, infinite where it was not computed.
        computed: which samples were, shape (n,).
    """

    logits: Tensor
    error: Tensor
    computed: Tensor


def recompute(
    samples: Samples, network: Network, constants: Tensor, least: float, device: torch.device | str = "cpu"
) -> Recomputed:
    """The logits of the samples by the network, in float64, with a proved error.

    What it takes is known beforehand. Where that is too much for all samples, those are computed that may be certified
    at a radius by the logits as seen, the likeliest first; the others count as not certified.

    Args:
        samples: of a validation.
        network: the one that is bounded.
        constants: of its margins, shape (classes, classes).
        least: a radius, in units of the network's input.
        device: where to compute.
    """
    n, able = len(samples), max(_FEW, int(_MOST_WORK / work_of(network)))
    chosen = torch.arange(n)
    if n > able:
        chosen = _likeliest(samples, constants, least)[:able]
    x = samples.inputs[chosen].to(device)
    norms = None
    few, error = values(network, x[:_FEW])
    if bool((error.amax(1) > _LARGE_ERROR * _spread(few)).any()):
        norms = node_norms(network, HINTS)
    found, lost = (t.cpu() for t in values(network, x, norms))
    logits = samples.logits.to(torch.float64, copy=True)
    error = torch.full_like(logits, torch.inf)
    logits[chosen], error[chosen] = found, lost + _moved_by_rounding(samples.inputs[chosen], constants)[:, None]
    computed = torch.zeros(n, dtype=torch.bool)
    computed[chosen] = True
    return Recomputed(logits, error, computed)


def _likeliest(samples: Samples, constants: Tensor, least: float) -> Tensor:
    """Samples that are right as seen, by falling radius, as far as it may be above `least`; a few in any case."""
    seen = samples.logits.double()
    best = seen.max(1, keepdim=True)
    room = 2 * samples.rounding * seen.abs().amax(1, keepdim=True)
    widened = seen.scatter(1, best.indices, best.values + room)
    radii = torch.where(seen.argmax(1) == samples.target, certified_radii(widened, constants, 0.0), -1.0)
    order = radii.argsort(descending=True, stable=True)
    return order[: max(_FEW, int((radii > least).sum()))]


def _moved_by_rounding(inputs: Tensor, constants: Tensor) -> Tensor:
    """What logits may be off because inputs came in half precision: (n,), for half of what a margin moves.

    Samples were rounded to it on the way, if they were not made in it: by half a unit in the last place of each entry.
    """
    if inputs.dtype not in (torch.float16, torch.bfloat16):
        return torch.zeros(len(inputs), dtype=torch.float64)
    info = torch.finfo(inputs.dtype)
    lost = (inputs.double().abs() * info.eps).clamp_min(info.smallest_normal * info.eps) / 2
    away: Tensor = lost.flatten(1).norm(dim=1)
    return away * float(constants.max()) / 2 * (1 + 1e-9)


def _spread(logits: Tensor) -> Tensor:
    """The largest margin of every sample."""
    return logits.amax(1) - logits.amin(1)


def disagreement(samples: Samples, found: Recomputed) -> str:
    """That the logits that were seen are not those of the network that is bounded, in words; nothing where they are.

    Differences are compared with margins, of which a sample's largest is the spread of its logits. A share of it may be
    lost by the precision that the logits were computed in, and a unit in the last place of their own.
    """
    seen, own = samples.logits[found.computed], found.logits[found.computed]
    if not len(own):
        return ""
    away = (seen.double() - own).abs().amax(1)
    share = max(samples.rounding, ROUNDING_OF_TF32)
    format_ = next(dtype for dtype, rounding in ROUNDING.items() if rounding <= samples.rounding)
    unit = torch.finfo(format_).eps * own.abs().amax(1)
    known = torch.isfinite(own).all(1) & torch.isfinite(away)
    if bool(known.all()) and float(away.sum()) <= float((share * _spread(own) + unit).sum()):
        return ""
    return "which does not return what the network that is bounded does"


def certified_counts(
    logits: Tensor, target: Tensor, margins: Margins, epsilons: Sequence[float], input_std: float,
    error: Tensor | float | None = None,
) -> tuple[Tensor, Curve]:  # fmt: skip
    """What margins say of samples.

    Returns:
        (counts, curve): (samples, right ones, those certified at every epsilon, sum of the radii), to be added over
        processes; and (radii, shares) of this process.
    """
    radii = signed_radii(logits, target, margins, input_std, error)
    total = radii.clamp_min(0.0).sum()
    certified = [(radii > epsilon).sum() for epsilon in epsilons]
    counts = torch.stack([torch.tensor(len(radii)), (radii >= 0).sum(), *certified, total * (1 - 1e-12)]).double()
    furthest = 2 * max(*epsilons, float(total) / max(len(radii), 1))
    steps = [furthest * k / _CURVE for k in range(_CURVE + 1)]
    return counts, (steps, [float((radii > step).double().mean()) for step in steps])
