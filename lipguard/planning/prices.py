"""Which proof a whole subnetwork gets: the cheapest deterministic one while it is cheap, a randomised one above that.

What a proof will take in time and memory is predicted from the architecture, before anything is allocated.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from lipguard.config import DCPConfig
from lipguard.planning.machine import CostModel
from lipguard.planning.memory import usable_memory
from lipguard.planning.orders.elimination import elimination_of, operations
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.tiling import proof_size
from lipguard.trusted.proofs.order import NoOrderError
from lipguard.trusted.proofs.tiles import LARGEST_MATRIX

_SEARCH, _SHARE_OF_SEARCH = 1.7e-5, 0.15  # seconds per neuron that an order takes, and what they may be of all
# A deterministic proof may take so many seconds although a randomised one is faster, or so many times as long.
_QUICK, _WORTH = 5.0, 2.0
_FACTORISATIONS = 40.0  # in whose time a dense proof finds and proves its smallest rho
_SECONDS_PER_ENTRY = 1e-7  # to assemble a sparse matrix
_BYTES_PER_ENTRY, _KEPT_PER_ENTRY = 45.0, 24.0  # while it is assembled, and factored
_VECTORS = 4  # of a randomised proof
# Steps of Lanczos' method before it, and before a sparse one of a large network: what they may miss, the inverse square
# of half of them, costs the bound as much per layer; in all so many tolerances.
_MISSED, FEWEST_STEPS, _MOST_STEPS = 2.0, 100, 300
# A randomised proof's clearance costs the bound 1.2 times itself per layer, and time as its inverse square root: in all
# so many tolerances, within what is worth its time; and the largest where time is short.
_LOSS, _LEAST_CLEARANCE, _MOST_CLEARANCE, LARGEST_CLEARANCE = 2.0, 0.2, 0.4, 0.3
# A step of the power iteration with eight vectors of single precision, and LipSDP's form applied to four of double: in
# seconds per layer, and in operations per entry and per multiplication of a forward pass. Fitted to nine networks of 9
# to 36 layers, 5e3 to 3e6 entries and 4e5 to 8e8 multiplications, which they meet within a third. The iterations are
# those of untrained networks, whose vectors are doubled once or twice; trained ones take a quarter.
_ITERATIONS, _LARGE = 800, 20_000
_STEP, _APPLICATION = (9e-5, 3900.0, 5.3), (6e-5, 2400.0, 18.0)
_TIED_ITERATIONS = 120
_SHARE_OF_ITERATION, _FEW_STEPS, _MANY_STEPS, _DEEP = 0.3, 40, 200, 8  # steps, and layers of images
_OTHER = 0.6  # seconds for norms, the lower bound, tracing and planning


@dataclass(frozen=True)
class Proof:
    """A kind of proof with its predicted price.

    Attributes:
        kind: "dense", "sparse" or "randomised".
        seconds: predicted.
        bytes: predicted peak, beside the network.
        reason: why this one, in words.
    """

    kind: str
    seconds: float
    bytes: float
    reason: str = ""


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
    dense, randomised = _dense(network, cost), _randomised(network, config, cost)
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
    return _SEARCH * network.neurons > _SHARE_OF_SEARCH * config.max_seconds


def prices(network: Network, config: DCPConfig, cost: CostModel, deadline: float = math.inf) -> list[str]:
    """What each kind of proof of the whole network would take, in words, and what speaks against it."""
    lines = []
    short = config.proof == "auto" and _is_short(config, network)
    sparse = None if short else _sparse_if_found(network, config, cost, deadline)
    for proof in (_dense(network, cost), sparse, _randomised(network, config, cost)):
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
    for piece in sorted(_pieces(network), key=lambda piece: piece.neurons, reverse=True):
        if _BYTES_PER_ENTRY * _entries(piece) > memory:
            return None
        if not _fits(_sparse(piece, config, cost, deadline), piece, config, memory):
            return None
    return _sparse(network, config, cost, deadline).seconds


def sparse_bytes(network: Network) -> float:
    """Predicted peak of a sparse proof, beside the network."""
    return max(_sparse_bytes(piece) for piece in _pieces(network))


def randomised_clearance(network: Network, tolerance: float) -> float:
    """What the smallest eigenvalue of the scaled matrix is to be, for a randomised proof where time does not count."""
    share = _LOSS / (1.2 * max(network.depths))
    return tolerance * min(max(share, _LEAST_CLEARANCE), _MOST_CLEARANCE)


def lanczos_steps(network: Network, tolerance: float) -> int:
    """How many steps of Lanczos' method see all but what costs the bound little, where time does not count."""
    steps = math.ceil(2 * math.sqrt(max(network.depths) / (_MISSED * tolerance)))
    return min(max(steps, FEWEST_STEPS), _MOST_STEPS)


def _fits(proof: Proof, network: Network, config: DCPConfig, memory: float) -> bool:
    """Whether a proof takes neither too much memory nor a dense matrix that is too large."""
    if proof.kind == "dense" and proof_size(network) > min(config.max_block_size or LARGEST_MATRIX, LARGEST_MATRIX):
        return False
    if proof.kind == "sparse" and config.max_block_size is not None:
        largest = max(elimination_of(piece).largest for piece in _pieces(network))
        return proof.bytes <= memory and largest <= config.max_block_size
    return proof.bytes <= memory


def iteration_seconds(network: Network, cost: CostModel, multipliers: str = "neuron") -> float:
    """Predicted time of the power iteration, for one multiplier per "neuron", per "channel", or "both"."""
    steps = {"neuron": _ITERATIONS, "channel": _TIED_ITERATIONS, "both": _ITERATIONS + _TIED_ITERATIONS}[multipliers]
    return _OTHER + cost.factor("iteration") * steps * _pass(network, cost, _STEP)


def which_multipliers(network: Network, config: DCPConfig, cost: CostModel, cut: Network | None = None) -> str:
    """Which the power iteration looks for: one per "neuron", one per "channel" of an image, or "both".

    Those of channels are looser by a fifth or so, and found in some thirty steps at any depth; those of neurons take
    hundreds where a network is deep and not trained, and what is proved before suffers more than that.

    Args:
        network: as it is.
        config: `multipliers` and `max_seconds` decide.
        cost: speed of this machine.
        cut: the network as it is cut, which the iteration runs on.
    """
    if config.multipliers != "auto":
        return config.multipliers
    images = [i for i in network.activations if len(network.nodes[i].shape) == 3]
    if not images or network.neurons <= _LARGE:
        return "neuron"
    steps = math.inf
    if config.max_seconds is not None:
        step = cost.factor("iteration") * _pass(cut or network, cost, _STEP)
        steps = _SHARE_OF_ITERATION * config.max_seconds / step
    if steps < _FEW_STEPS:
        return "channel"
    return "both" if steps < _MANY_STEPS or len(images) >= _DEEP else "neuron"


def _because(proof: Proof, reason: str) -> Proof:
    return dataclasses.replace(proof, reason=reason)


def _dense(network: Network, cost: CostModel) -> Proof:
    n = float(network.neurons + network.nodes[0].size)
    seconds = cost.factor("dense") * (_FACTORISATIONS * n**3 / 3 / cost.flops + 1e-7 * n * n)
    return Proof("dense", seconds, 8 * 10 * n * n)


def _sparse_if_found(network: Network, config: DCPConfig, cost: CostModel, deadline: float) -> Proof | None:
    """The sparse proof; None where no order of elimination is found in time."""
    try:
        return _sparse(network, config, cost, deadline)
    except NoOrderError:
        return None


def _sparse(network: Network, config: DCPConfig, cost: CostModel, deadline: float = math.inf) -> Proof:
    seconds = 0.01
    for piece in _pieces(network):
        seconds += operations(elimination_of(piece, deadline)) / cost.flops + _SECONDS_PER_ENTRY * _entries(piece)
    if network.neurons > _LARGE:
        seconds += lanczos_steps(network, config.tolerance) / _VECTORS * _pass(network, cost, _APPLICATION)
    return Proof("sparse", cost.factor("sparse") * seconds, sparse_bytes(network))


def _sparse_bytes(piece: Network) -> float:
    entries = _entries(piece)
    return max(elimination_of(piece).bytes + _KEPT_PER_ENTRY * entries, _BYTES_PER_ENTRY * entries)


def _entries(piece: Network) -> float:
    """Of its sparse matrix, at most."""
    return multiplications(piece) + piece.neurons


def _pieces(network: Network) -> list[Network]:
    """What a sparse proof works on, one after the other."""
    if len(network.pieces) == 1:
        return [network]
    return [network.part(nodes) for nodes in network.pieces if len(nodes) > 1]


def _randomised(network: Network, config: DCPConfig, cost: CostModel) -> Proof:
    variables = float(sum(node.size for node in network.nodes))
    # The degree of the polynomial (`lipguard.trusted.proofs.randomised`).
    share = (config.failure_probability or 1e-12) ** (1 / _VECTORS) / math.sqrt(2 * variables / math.pi)
    clearance = randomised_clearance(network, config.tolerance)
    steps = math.acosh(max(3 / share, 1.0)) / (2 * math.asinh(math.sqrt(clearance / 2)))
    seconds = cost.factor("randomised") * (steps + min(lanczos_steps(network, config.tolerance), steps) / _VECTORS)
    seconds *= _pass(network, cost, _APPLICATION)
    return Proof("randomised", seconds, 8 * 30 * _VECTORS * variables)


def _pass(network: Network, cost: CostModel, price: tuple[float, float, float]) -> float:
    """Seconds of a forward and a backward pass, at a price per layer, entry and multiplication."""
    entries = sum(node.size for node in network.nodes)
    return price[0] * len(network.nodes) + (price[1] * entries + price[2] * multiplications(network)) / cost.flops


def multiplications(network: Network) -> float:
    """Multiplications of a forward pass."""
    return sum(node.layer.multiplications(node.shape) for node in network.nodes)
