"""Which proof a whole subnetwork gets: the cheapest deterministic one while it is cheap, one that errs above that.

What a proof will take in time and memory is predicted from the architecture, before anything is allocated. Every kind
of proof (`lipguard.trusted.proofs.kinds.CHECKS`) has its price in a row of `PRICES`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lipguard.config import DCPConfig
from lipguard.planning.machine import CostModel
from lipguard.planning.memory import usable_memory
from lipguard.planning.prices import dense, randomised, sparse
from lipguard.planning.prices.iteration import iteration_seconds
from lipguard.planning.prices.price import Estimate, Price
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs.kinds import CHECKS
from lipguard.trusted.proofs.order import NoOrderError

SHARE_OF_SEARCH = 0.15  # of all time, that may pass before there is a price
# A deterministic proof may take so many seconds although one that errs is faster, or so many times as long.
_QUICK, _WORTH = 5.0, 2.0
IN_PIECES = next(kind for kind, check in CHECKS.items() if check.in_pieces)  # what a network that is cut is proved by


def _at_once(network: Network) -> float:
    return 0.0


@dataclass(frozen=True)
class Pricing:
    """How the price of a kind of proof is found.

    Attributes:
        estimate: of a network as one LMI, by settings and machine, before a deadline of `time.monotonic()`; raises
            `NoOrderError` where there is no time for it.
        search: predicted seconds that this takes.
    """

    estimate: Callable[[Network, DCPConfig, CostModel, float], Estimate]
    search: Callable[[Network], float] = _at_once


PRICES: Mapping[str, Pricing] = {
    "dense": Pricing(dense.estimate),
    "sparse": Pricing(sparse.estimate, sparse.search_seconds),
    "randomised": Pricing(randomised.estimate),
}


def price_of(
    kind: str, network: Network, config: DCPConfig, cost: CostModel, deadline: float = math.inf
) -> Price:  # fmt: skip
    """The price of a kind of proof of the whole network as one LMI.

    Raises:
        NoOrderError: no order of elimination is found before the deadline, of `time.monotonic()`.
    """
    found = PRICES[kind].estimate(network, config, cost, deadline)
    return Price(kind, cost.factor(kind) * found.seconds, found.bytes, found.too_large)


def choose_proof(
    network: Network, config: DCPConfig, cost: CostModel, memory: float | None = None, deadline: float = math.inf
) -> Price | None:
    """The proof of the whole network as one LMI; None where none fits.

    Args:
        network: the network, or a part of it.
        config: `proof`, `failure_probability`, `max_block_size` and `max_seconds` decide.
        cost: speed of this machine.
        memory: bytes that may be used; by default `config.max_memory`, or half of what is free.
        deadline: of `time.monotonic()`, at which no order of elimination is looked for any more.
    """
    memory = memory or usable_memory(config)
    if config.proof != "auto":
        asked = _price_if_found(config.proof, network, config, cost, deadline)
        return _because(asked, f"proof={config.proof!r}") if asked is not None and asked.fits(memory) else None
    prices = _prices(network, config, cost, deadline)
    known = [price for price in prices.values() if price is not None]
    exact = _cheapest([price for price in known if not CHECKS[price.kind].errs and price.fits(memory)])
    erring = _cheapest([price for price in known if CHECKS[price.kind].errs])
    budget, worth = _QUICK, _WORTH
    if config.max_seconds is not None:
        budget, worth = 0.5 * config.max_seconds - iteration_seconds(network, cost), 1.0
    if exact is not None and exact.seconds <= max(budget, worth * erring.seconds if erring is not None else 0.0):
        return _because(exact, "deterministic, and cheap")
    if erring is not None and config.failure_probability > 0:  # with a larger clearance, where time is short
        within = math.inf if config.max_seconds is None else 0.7 * config.max_seconds
        other = f"a {exact.kind} one would take {exact.seconds:.0f} s" if exact else "no deterministic one fits"
        late = [f"no time to look for an order of a {kind} one" for kind, price in prices.items() if price is None]
        reason = ", ".join(late) or other
        return _because(dataclasses.replace(erring, seconds=min(erring.seconds, within)), reason)
    if exact is not None and (config.max_seconds is None or exact.seconds <= config.max_seconds):
        return _because(exact, "failure_probability=0")
    return None


def explained(network: Network, config: DCPConfig, cost: CostModel, deadline: float = math.inf) -> list[str]:
    """What each kind of proof of the whole network would take, in words, and what speaks against it."""
    lines, memory = [], usable_memory(config)
    for kind, price in _prices(network, config, cost, deadline).items():
        if price is None:
            lines.append(f"one LMI, {kind} proof: no time to look for an order of elimination")
            continue
        against = []
        if CHECKS[kind].errs and config.failure_probability == 0:
            against.append("not deterministic")
        if price.bytes > memory:
            against.append("more memory than there may be")
        elif price.too_large:
            against.append("too large a dense matrix")
        if config.max_seconds is not None and price.seconds > config.max_seconds:
            against.append("more than max_seconds")
        words = f": {', '.join(against)}" if against else ""
        lines.append(f"one LMI, {kind} proof, {price.seconds:.1f} s and {price.bytes / 1e6:.0f} MB{words}")
    return lines


def seconds_in_pieces(
    network: Network, config: DCPConfig, cost: CostModel, deadline: float = math.inf
) -> float | None:  # fmt: skip
    """Predicted time of a proof piece by piece; None where one takes too much memory or too large a front.

    Raises:
        NoOrderError: no order of elimination is found before the deadline.
    """
    memory = usable_memory(config)
    for piece in sorted(sparse.pieces(network), key=lambda piece: piece.neurons, reverse=True):
        if sparse.least_bytes(piece) > memory:
            return None
        if not price_of(IN_PIECES, piece, config, cost, deadline).fits(memory):
            return None
    return price_of(IN_PIECES, network, config, cost, deadline).seconds


def _prices(
    network: Network, config: DCPConfig, cost: CostModel, deadline: float
) -> dict[str, Price | None]:  # fmt: skip
    """By kind; None where there is no time to find one."""
    short = {kind for kind in PRICES if config.proof == "auto" and _is_short(kind, network, config)}
    return {kind: None if kind in short else _price_if_found(kind, network, config, cost, deadline) for kind in PRICES}


def _price_if_found(
    kind: str, network: Network, config: DCPConfig, cost: CostModel, deadline: float
) -> Price | None:  # fmt: skip
    """The price of a kind; None where no order of elimination is found in time."""
    try:
        return price_of(kind, network, config, cost, deadline)
    except NoOrderError:
        return None


def _is_short(kind: str, network: Network, config: DCPConfig) -> bool:
    """Whether finding the price would take too much of the time there is."""
    if config.max_seconds is None or config.failure_probability == 0:
        return False
    return PRICES[kind].search(network) > SHARE_OF_SEARCH * config.max_seconds


def _cheapest(prices: list[Price]) -> Price | None:
    return min(prices, key=lambda price: price.seconds, default=None)


def _because(price: Price, reason: str) -> Price:
    return dataclasses.replace(price, reason=reason)
