"""Runs of the power iteration, to their end or to a deadline."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from lipguard.proposing.outcome import INTERRUPTED, NOT_FINITE, SOLVED, End, Outcome
from lipguard.proposing.power.iteration import Array, Iteration, Part
from lipguard.proposing.power.options import PowerOptions
from lipguard.proposing.power.rank import fewest, is_full
from lipguard.proposing.proposal import Proposal
from lipguard.trusted.lmi.freed import propagate
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.tiling import Tiling

_WINDOW, _RESUMED_WINDOW = 10, 5  # steps over which the value is compared
_FREE_STEPS = 5  # without momentum, from a random start
_MOMENTUM = (0.8, 0.9)  # at first, and once the fast part is over
_FAST_STEPS = 30
_POLISH, _RESUMED_POLISH = 10, 3  # steps without it at the end
# Of a network with so many entries, where time is short: so many steps are wanted, with so many vectors at least, and a
# vector of many takes so much of the time that one alone takes to pass forward.
_LARGE, _FEW_STEPS, _FEWEST_VECTORS, _BATCHED = 100_000, 20, 2, 1.5


def propose(network: Network, options: PowerOptions, state: Mapping[str, Array] | None = None) -> Proposal:
    """Run the fixed point on the linearised network.

    Args:
        network: any graph of layers.
        options: vectors, tolerance, iterations.
        state: "x" and "u<node>" of an earlier run on the same architecture, to go on from.

    Returns:
        The multipliers, with a value that is a lower bound of LipSDP's optimum. Time that runs out, and Ctrl-C, end
        the iteration where it is.
    """
    found = _run(lambda o: [Part(network.to(o.dtype, o.device))], network.input_shape, options, state or {})
    return found[0]


def propose_tiles(tiling: Tiling, options: PowerOptions, state: Mapping[str, Array] | None = None) -> list[Proposal]:
    """Multipliers of all tile shapes together, the best for the largest eigenvalue of the merged form.

    Args:
        tiling: the tiles.
        options: as for `propose`.
        state: of an earlier run on the same tiling.

    Returns:
        One proposal per shape, with the value of the merged form; the first one has the state.
    """

    def parts(o: PowerOptions) -> list[Part]:
        return [
            Part(tiling.shape_network(shape).to(o.dtype, o.device), torch.from_numpy(patches).to(o.device))
            for shape, patches in zip(tiling.shapes, tiling.patches, strict=True)
        ]

    return _run(parts, tiling.network.input_shape, options, state or {})


def _run(
    parts: Callable[[PowerOptions], list[Part]],
    shape: tuple[int, ...],
    options: PowerOptions,
    state: Mapping[str, Array],
) -> list[Proposal]:
    own = parts(options)
    options, affordable = _hurried(own, shape, options, state)
    if not affordable:
        return [Proposal.without_multipliers(Outcome.no_time(End.FAILED)) for _ in own]
    iteration = Iteration(own, shape, options, state)
    values: list[float] = []
    outcome = _iterate(iteration, options, values)
    multipliers = iteration.multipliers() if values and 0 < values[-1] < math.inf else []
    usable = bool(multipliers) and all(np.isfinite(t).all() for t in multipliers)
    if options.dtype != torch.float64 and not usable and not (outcome.is_failed or outcome.is_interrupted):
        return _run(parts, shape, dataclasses.replace(options, dtype=torch.float64), {})
    if not values:
        return [Proposal.without_multipliers(outcome) for _ in iteration.parts]
    if values[-1] == 0:  # of a network that is constant
        return [Proposal(np.zeros(p.network.neurons), 0.0, SOLVED, {}, len(values)) for p in iteration.parts]
    if not usable:
        return [Proposal.without_multipliers(NOT_FINITE) for _ in iteration.parts]
    (value, directions), final = iteration.value(), fewest(iteration)
    return [
        Proposal(t, value, outcome, final if j == 0 else {}, len(values) if j == 0 else 0, directions)
        for j, t in enumerate(multipliers)
    ]


def _hurried(
    parts: Sequence[Part], shape: tuple[int, ...], options: PowerOptions, state: Mapping[str, Array]
) -> tuple[PowerOptions, bool]:
    """With fewer vectors, where time is too short for some steps with all of them; and whether there is any for one.

    Shown by one vector on its way forward, of large networks, on which that is little beside the rest.
    """
    entries = sum(node.size * part.copies for part in parts for node in part.network.nodes)
    if options.max_seconds is None or entries < _LARGE or "x" in state:
        return options, True
    began = time.monotonic()
    x = torch.ones(1, *shape, dtype=options.dtype, device=options.device)
    with torch.no_grad():
        for part in parts:
            propagate(part.network, part.read(x), lambda i, a: a)
    passed = time.monotonic() - began
    left = options.max_seconds - passed
    vectors = int(left / (_FEW_STEPS * _BATCHED * passed)) if passed > 0 else options.vectors
    fewer = min(options.vectors, max(vectors, _FEWEST_VECTORS))
    affordable = left > 3 * _BATCHED * passed * fewer
    return dataclasses.replace(options, vectors=fewer, max_seconds=max(left, 0.0)), affordable


def _iterate(iteration: Iteration, options: PowerOptions, values: list[float]) -> Outcome:
    """Step until the value stands still; says how it ended."""
    deadline = math.inf if options.max_seconds is None else time.monotonic() + options.max_seconds
    resumed = iteration.resumed
    free = 0 if resumed else _FREE_STEPS
    window, polish = (_RESUMED_WINDOW, _RESUMED_POLISH) if resumed else (_WINDOW, _POLISH)
    begun, last = 0, options.max_iterations
    now, shortest = time.monotonic(), math.inf
    try:
        while len(values) < last:
            before, now = now, time.monotonic()
            shortest = min(shortest, now - before) if values else math.inf
            # Nor a step that would end after it; what follows the last one takes as long as half a step.
            if now >= deadline or (values and now + 1.5 * shortest > deadline):
                return Outcome.no_time(End.INACCURATE if values else End.FAILED)
            n = len(values)
            # Momentum may overshoot: a value that falls is a reason to do without it for a while.
            if n >= 2 and values[-1] < values[-2] * (1 - 1e-3):
                free = n + _FREE_STEPS
            still = last < options.max_iterations
            values.append(iteration.step(0.0 if n < free or still else _MOMENTUM[n >= _FAST_STEPS]))
            if not 0 < values[-1] < math.inf:
                return SOLVED
            recent = values[begun:][-window - 1 :]
            change = max(recent) - min(recent) if len(recent) > window else math.inf
            if (n - begun) % _WINDOW == 0 and is_full(iteration, change / values[-1]):
                iteration.grow()
                begun, free, last = n + 1, n + 1 + _FREE_STEPS, options.max_iterations
            elif not still and change <= options.tolerance * values[-1]:
                # Parts of the network that the best input leaves alone decay, and momentum makes them oscillate: a few
                # steps without it give them multipliers of their own.
                last = min(len(values) + polish, options.max_iterations)
    except KeyboardInterrupt:
        return INTERRUPTED
    return SOLVED if last < options.max_iterations else Outcome(End.INACCURATE, "iterations used up")
