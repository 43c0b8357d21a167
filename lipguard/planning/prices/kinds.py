"""Which proof a whole subnetwork gets: the cheapest deterministic one while it is cheap, a randomised one above that.

What a proof will take in time and memory is predicted from the architecture, before anything is allocated.
"""

from __future__ import annotations

import dataclasses
import math

from lipguard.config import DCPConfig
from lipguard.planning.machine import CostModel
from lipguard.planning.memory import usable_memory
from lipguard.planning.orders.elimination import elimination_of
from lipguard.planning.prices.dense import dense_price
from lipguard.planning.prices.iteration import iteration_seconds
from lipguard.planning.prices.price import Proof
from lipguard.planning.prices.randomised import randomised_price
from lipguard.planning.prices.sparse import BYTES_PER_ENTRY, entries, pieces, sparse_price
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.tiling import proof_size
from lipguard.trusted.proofs.order import NoOrderError
from lipguard.trusted.proofs.tiles import LARGEST_MATRIX

SEARCH, SHARE_OF_SEARCH = 1.7e-5, 0.15  # seconds per neuron that an order takes, and what they may be of all
# A deterministic proof may take so many seconds although a randomised one is faster, or so many times as long.
_QUICK, _WORTH = 5.0, 2.0


def choose_proof(
    network: Network, config: DCPConfig, cost: CostModel, memory: float | None = None, deadline: float = math.inf
) -> Proof | None:
    """The proof of the whole network as one LMI; None where none fits.

    Args:
        network: the network, or a part of it.
        config: `proof`, `failure_probability`, `max_block_size` and `max_seconds` decide.
        cost: speed of this machine.
        memory: bytes that may be used; by default `config.max_memory`, or half of what is free.
        deadline: of `time.monotonic()`, at which no order of elimination is looked for any more.
    """
    memory = memory or usable_memory(config)
    dense, randomised = dense_price(network, cost), randomised_price(network, config, cost)
    if config.proof != "auto":
        asked = {"dense": dense, "randomised": randomised}.get(config.proof)
        asked = asked or _sparse_if_found(network, config, cost, deadline)
        fits = asked is not None and _fits(asked, network, config, memory)
        return _because(asked, f"proof={config.proof!r}") if asked is not None and fits else None
    sparse = None if _is_short(config, network) else _sparse_if_found(network, config, cost, deadline)
    candidates = (dense,) if sparse is None else (sparse, dense)
    found = [proof for proof in candidates if _fits(proof, network, config, memory)]
    exact = min(found, key=lambda proof: proof.seconds, default=None)
    budget, worth = _QUICK, _WORTH
    if config.max_seconds is not None:
        budget, worth = 0.5 * config.max_seconds - iteration_seconds(network, cost), 1.0
    if exact is not None and exact.seconds <= max(budget, worth * randomised.seconds):
        return _because(exact, "deterministic, and cheap")
    if config.failure_probability > 0:  # with a larger clearance, where time is short
        within = math.inf if config.max_seconds is None else 0.6 * config.max_seconds
        other = f"a {exact.kind} one would take {exact.seconds:.0f} s" if exact else "no deterministic one fits"
        other = other if sparse is not None else "no time to look for an order of a sparse one"
        return _because(dataclasses.replace(randomised, seconds=min(randomised.seconds, within)), other)
    if exact is not None and (config.max_seconds is None or exact.seconds <= config.max_seconds):
        return _because(exact, "failure_probability=0")
    return None


def _is_short(config: DCPConfig, network: Network) -> bool:
    """Whether the search for an order of elimination would take too much of the time there is."""
    if config.max_seconds is None or config.failure_probability == 0:
        return False
    return SEARCH * network.neurons > SHARE_OF_SEARCH * config.max_seconds


def prices(network: Network, config: DCPConfig, cost: CostModel, deadline: float = math.inf) -> list[str]:
    """What each kind of proof of the whole network would take, in words, and what speaks against it."""
    lines = []
    short = config.proof == "auto" and _is_short(config, network)
    sparse = None if short else _sparse_if_found(network, config, cost, deadline)
    for proof in (dense_price(network, cost), sparse, randomised_price(network, config, cost)):
        if proof is None:
            lines.append("one LMI, sparse proof: no time to look for an order of elimination")
            continue
        against = []
        if proof.kind == "randomised" and config.failure_probability == 0:
            against.append("not deterministic")
        if proof.bytes > usable_memory(config):
            against.append("more memory than there may be")
        elif not _fits(proof, network, config, usable_memory(config)):
            against.append("too large a dense matrix")
        if config.max_seconds is not None and proof.seconds > config.max_seconds:
            against.append("more than max_seconds")
        words = f": {', '.join(against)}" if against else ""
        lines.append(f"one LMI, {proof.kind} proof, {proof.seconds:.1f} s and {proof.bytes / 1e6:.0f} MB{words}")
    return lines


def sparse_seconds(network: Network, config: DCPConfig, cost: CostModel, deadline: float = math.inf) -> float | None:
    """Predicted time of a sparse proof; None where it takes too much memory or too large a front.

    Raises:
        NoOrderError: no order of elimination is found before the deadline.
    """
    memory = usable_memory(config)
    for piece in sorted(pieces(network), key=lambda piece: piece.neurons, reverse=True):
        if BYTES_PER_ENTRY * entries(piece) > memory:
            return None
        if not _fits(sparse_price(piece, config, cost, deadline), piece, config, memory):
            return None
    return sparse_price(network, config, cost, deadline).seconds


def _fits(proof: Proof, network: Network, config: DCPConfig, memory: float) -> bool:
    """Whether a proof takes neither too much memory nor a dense matrix that is too large."""
    if proof.kind == "dense" and proof_size(network) > min(config.max_block_size or LARGEST_MATRIX, LARGEST_MATRIX):
        return False
    if proof.kind == "sparse" and config.max_block_size is not None:
        largest = max(elimination_of(piece).largest for piece in pieces(network))
        return proof.bytes <= memory and largest <= config.max_block_size
    return proof.bytes <= memory


def _because(proof: Proof, reason: str) -> Proof:
    return dataclasses.replace(proof, reason=reason)


def _sparse_if_found(network: Network, config: DCPConfig, cost: CostModel, deadline: float) -> Proof | None:
    """The sparse proof; None where no order of elimination is found in time."""
    try:
        return sparse_price(network, config, cost, deadline)
    except NoOrderError:
        return None
