"""The dynamic search: cuts and tiles with the smallest predicted bound whose LMIs stay within N_max.

A dynamic programme over the separators of the network. It knows the architecture and the cost model, not the weights,
so a plan is found once and reused while the network trains.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from lipguard.config import DCPConfig
from lipguard.errors import ConfigError
from lipguard.planning.cuts import Cuts, candidates, chosen_cuts, segments
from lipguard.planning.machine import CostModel, cost_model
from lipguard.planning.prices.iteration import iteration_seconds, which_multipliers
from lipguard.planning.prices.kinds import IN_PIECES, choose_proof, explained, seconds_in_pieces
from lipguard.planning.prices.price import Price
from lipguard.trusted.certificate.blocks import Block, PartitionPlan
from lipguard.trusted.layers import Add, Conv2d, Linear, Scale
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.tiling import Tiling, is_tileable, lmi_sizes, proof_size
from lipguard.trusted.network.unfolding import WHOLE
from lipguard.trusted.proofs.order import NoOrderError
from lipguard.trusted.proofs.tiles import LARGEST_MATRIX

# What a joint LMI gains over the product of norms, per activation layer inside it, and what tiles give back of it
# (design, section 2.4: CNN1's convolutions, whole and in tiles of 2 to 10).
_GAIN = 0.66
_HALO_LOSS = 0.65
_LONGEST_AXIS_SEARCH = 24
# N_max where none is given: the usual one, and the most that a network's smallest block may ask for. Clarabel's
# interior point method factors a matrix with a row for every entry of the LMI.
_BLOCK_SIZES = {"scs": (300, 1000), "clarabel": (100, 150), "power": (2048, 4096)}
Value = Callable[[Network], float]
# What a search may take: a share of the budget; seconds where there is none; seconds where little is left.
SHARE_OF_SEARCH, MOST_SEARCH, LEAST_SEARCH = 0.25, 60.0, 0.3
_WEIGHTS = (Conv2d, Linear, Scale)
_NO_CUTS = Cuts((), (), 0.0)


def settings_of(config: DCPConfig) -> dict[str, Any]:
    """The settings that decide a plan."""
    names = (
        "partition", "solver", "merge", "proof", "failure_probability", "max_block_size", "partition_factors",
        "max_seconds", "max_memory", "max_iterations", "multipliers",
    )  # fmt: skip
    factors = config.partition_factors
    return {name: getattr(config, name) for name in names} | {"partition_factors": factors and list(factors)}


def search_deadline(config: DCPConfig, start: float, deadline: float = math.inf) -> float:
    """When a search that belongs to a certification begun at `start` is to end, of `time.monotonic()`."""
    most = MOST_SEARCH if config.max_seconds is None else SHARE_OF_SEARCH * config.max_seconds
    return max(min(start + most, deadline), time.monotonic() + LEAST_SEARCH)


def find_plan(
    network: Network, config: DCPConfig, cost: CostModel | None = None, value: Value | None = None,
    deadline: float | None = None,
) -> PartitionPlan:  # fmt: skip
    """The plan with the smallest predicted bound within `max_block_size`, `max_memory` and `max_seconds`.

    Args:
        network: the network.
        config: the settings.
        cost: speed of this machine, measured where it is not given.
        value: of the relaxation of a network, roughly; it shows what a cut loses. None assumes the same for every cut.
        deadline: of `time.monotonic()`, at which the best plan so far has to do, or one of norms; by default
            `search_deadline` from now on.

    Raises:
        ConfigError: no LMI of the network is as small as `max_block_size`, or the partition asked for does not fit.
    """
    deadline = search_deadline(config, time.monotonic()) if deadline is None else deadline
    cost = cost or cost_model()
    plan = _find_plan(network, config, cost, value, deadline)
    if config.solver != "power" or config.partition in ("cuts", "tiles") or not network.activations:
        return plan
    lines = explained(network, config, cost, deadline)
    if any(block.cuts or block.grids for block in plan.blocks):
        lines.append(f"{plan.blocks[0].method}, {plan.blocks[0].proof} proofs, {plan.blocks[0].seconds:.1f} s: chosen")
    elif len(plan.blocks) > 1:
        lines.append(f"{len(plan.blocks)} blocks whose bounds multiply, {plan.seconds:.1f} s: chosen")
    return dataclasses.replace(plan, considered=tuple(lines))


def _find_plan(
    network: Network, config: DCPConfig, cost: CostModel, value: Value | None, deadline: float
) -> PartitionPlan:
    whole = _whole_by_power(network, config, cost, deadline) or _cut_by_power(network, config, cost, value, deadline)
    if whole is not None:
        return PartitionPlan(network.architecture, (whole,), settings_of(config))
    plan = _plan_within(network, config, cost, _largest_block(network, config, cost, deadline), deadline)
    if config.max_seconds is None:
        return plan
    limit = max((rows for block in plan.blocks for rows in block.variables), default=0)
    while plan.seconds > config.max_seconds and limit > 2:  # smaller and smaller blocks until the predicted time fits
        limit = int(0.8 * limit)
        search = _Search(network, config, cost, limit, deadline)
        smaller = search.plan()
        if search.is_late:  # it did not see everything; what the plan before has no time for, its proofs leave out
            break
        plan = smaller
    return plan


def _whole_by_power(network: Network, config: DCPConfig, cost: CostModel, deadline: float) -> Block | None:
    """The whole network as one block: the power iteration needs no matrix, and one proof loses less than several."""
    if config.solver != "power" or config.partition not in ("auto", "none") or not network.activations:
        return None
    proof = choose_proof(network, config, cost, deadline=deadline)
    if proof is None:
        return None
    return _one_lmi(network, network, config, cost, proof)


def _cut_by_power(
    network: Network, config: DCPConfig, cost: CostModel, value: Value | None, deadline: float
) -> Block | None:
    """One block that is cut, and in tiles, where it loses least, so that sparse proofs of the pieces fit."""
    if config.solver != "power" or config.partition != "auto" or config.proof not in ("auto", IN_PIECES):
        return None
    budget = math.inf
    if config.max_seconds is not None:
        iterations = iteration_seconds(network, cost)
        budget = 0.8 * config.max_seconds - 2 * iterations
        if len(candidates(network)) * iterations > 0.2 * config.max_seconds:
            value = None  # there is no time to ask
    hurried = config.max_seconds is not None
    found = segments(
        network, lambda part: seconds_in_pieces(part, config, cost, deadline), config.partition_factors, hurried
    )
    chosen = chosen_cuts(network, found, value, budget)
    if chosen is None:
        return None
    own = chosen.apply(network)
    try:
        seconds = seconds_in_pieces(own, config, cost, deadline)
    except NoOrderError:
        return None
    if seconds is None or len(own.pieces) == 1:
        return None
    places = ", ".join(network.nodes[i].path for i in chosen.behind)
    reason = f"a diagonal form behind {places or 'nothing'}: {math.expm1(chosen.loss):+.1%} predicted"
    return _one_lmi(network, own, config, cost, Price(IN_PIECES, seconds, 0.0, reason=reason), chosen)


def _one_lmi(
    network: Network, own: Network, config: DCPConfig, cost: CostModel, proof: Price, cuts: Cuts = _NO_CUTS
) -> Block:
    """The block of a whole network, given as it is and as it is cut."""
    last = len(network.nodes) - 1
    _, rows = lmi_sizes(own, [node.size for node in own.nodes])
    multipliers = which_multipliers(network, config, cost, own)
    seconds = iteration_seconds(own, cost, multipliers) + proof.seconds
    names = own.nodes[1].path, own.nodes[-1].path
    ratio = min(_GAIN ** len(network.activations) * math.exp(cuts.loss), 1.0)
    grids = cuts.grids if any(grid != WHOLE for grid in cuts.grids) else ()
    tiles = sum(math.prod(grid) for grid in grids) or 1
    return Block(
        0, last, "whole", names, None, (rows,), tiles, ratio, seconds, proof.kind, proof.reason, cuts.behind, grids,
        multipliers,
    )  # fmt: skip


def _plan_within(network: Network, config: DCPConfig, cost: CostModel, limit: int, deadline: float) -> PartitionPlan:
    search = _Search(network, config, cost, limit, deadline)
    plan = search.plan()
    too_small = config.max_block_size is not None and not search.fits and math.isfinite(search.smallest)
    if too_small and not search.is_late:
        raise ConfigError(
            f"max_block_size={limit} is smaller than any block of this network can be: the smallest LMI has "
            f"{search.smallest:.0f} rows. Set max_block_size to at least that."
        )
    return plan


def _largest_block(network: Network, config: DCPConfig, cost: CostModel, deadline: float) -> int:
    """N_max: as given, or the usual one, or as much as the smallest block needs."""
    if config.max_block_size is not None:
        return config.max_block_size
    usual, largest = _BLOCK_SIZES[config.solver]
    search = _Search(network, config, cost, usual, deadline)
    search.plan()
    return usual if search.fits or search.smallest > largest else int(search.smallest)


class _Search:
    def __init__(self, network: Network, config: DCPConfig, cost: CostModel, limit: int, deadline: float) -> None:
        self.network, self.config, self.cost, self.limit = network, config, cost, limit
        self.deadline = deadline  # of `time.monotonic()`; what was not looked at by then is left to norms
        self.is_late = False
        self.smallest = math.inf  # rows of the smallest LMI seen, for the message when nothing fits
        self.fits = False
        self.to_be_tiled = self._convolutional_subnetworks() if config.partition == "tiles" else []

    def plan(self) -> PartitionPlan:
        blocks = [self._whole_network()] if self.config.partition == "none" else self._shortest_path()
        return PartitionPlan(self.network.architecture, tuple(blocks), settings_of(self.config))

    def _whole_network(self) -> Block:
        block = self._whole(0, len(self.network.nodes) - 1)
        if block is None and self.network.activations and not self.fits and self.limit == self.config.max_block_size:
            raise ConfigError(
                f"partition='none' puts the whole network into one LMI of {self.smallest:.0f} rows, which "
                f"max_block_size={self.limit} does not allow. Raise it, or let partition='auto' cut the network."
            )
        return block or self._norm(0, len(self.network.nodes) - 1)

    def _shortest_path(self) -> list[Block]:
        """Dynamic programme: best[j] is the best sequence of blocks from the input to separator j."""
        separators = self.network.separators
        best: dict[int, tuple[tuple[float, float, int], list[Block]]] = {0: ((0.0, 0.0, 0), [])}
        for position, stop in enumerate(separators[1:], start=1):
            candidates = [self._norm(separators[position - 1], stop), *self._blocks_to(stop, separators[:position])]
            scored = []
            for block in candidates:
                (loss, seconds, count), blocks = best[block.start]
                step = (loss + math.log(block.ratio), seconds + block.seconds, count + (block.kind != "norm"))
                scored.append((step, [*blocks, block]))
            # Equal up to rounding counts as equal: then the cheaper one, then the one of fewer blocks.
            best[stop] = min(scored, key=lambda entry: (round(entry[0][0], 9), round(entry[0][1], 6), entry[0][2]))
        return _joined(best[separators[-1]][1])

    def _blocks_to(self, stop: int, starts: tuple[int, ...]) -> Iterator[Block]:
        for start in reversed(starts):
            if not self._may_gain(start, stop):
                continue
            self.is_late = self.is_late or time.monotonic() > self.deadline
            if self.is_late:
                return
            found = [block for block in (self._whole(start, stop), self._tiled(start, stop)) if block is not None]
            yield from found
            if not found and not self._may_grow(start, stop):
                return  # a longer block is a larger one

    def _may_gain(self, start: int, stop: int) -> bool:
        """A joint LMI gains where activations stand between weights; what is outside of them only enlarges it."""
        first, last = self.network.nodes[start + 1].layer, self.network.nodes[stop].layer
        inside = any(start < i < stop for i in self.network.activations)
        return inside and isinstance(first, _WEIGHTS) and isinstance(last, (*_WEIGHTS, Add))

    def _convolutional_subnetworks(self) -> list[tuple[int, int]]:
        """For every separator the shortest subnetwork that ends there and can be tiled."""
        found = []
        separators = self.network.separators
        for position, stop in enumerate(separators):
            for start in reversed(separators[:position]):
                if self._may_gain(start, stop):
                    if is_tileable(self.network.subnetwork(start, stop)):
                        found.append((start, stop))
                    break
        return found

    def _may_grow(self, start: int, stop: int) -> bool:
        """Whether a block that begins earlier could still fit, or be the smallest: it has these neurons at least."""
        own = self.network.subnetwork(start, stop)
        return own.neurons <= max(self.limit, self.smallest) or is_tileable(own)

    def _norm(self, start: int, stop: int) -> Block:
        return Block(start, stop, "norm", self._names(start, stop))

    def _names(self, start: int, stop: int) -> tuple[str, str]:
        return self.network.nodes[start + 1].path, self.network.nodes[stop].path

    def _whole(self, start: int, stop: int) -> Block | None:
        own = self.network.subnetwork(start, stop)
        if not own.activations:
            return None
        if any(start < last and first < stop for first, last in self.to_be_tiled):
            return None
        _, rows = lmi_sizes(own, [node.size for node in own.nodes])
        if not self._within(rows) or proof_size(own) > LARGEST_MATRIX:
            return None
        gain = _GAIN ** len(own.activations)
        return Block(start, stop, "whole", self._names(start, stop), None, (rows,), 1, gain, self._seconds(rows))

    def _tiled(self, start: int, stop: int) -> Block | None:
        if self.config.partition in ("cuts", "none"):
            return None
        own = self.network.subnetwork(start, stop)
        if not (own.activations and is_tileable(own)):
            return None
        best = None
        for tile in self._tile_sizes(own):
            self.is_late = self.is_late or time.monotonic() > self.deadline
            if self.is_late and best is not None:
                break
            tiling = Tiling(own, tile)
            rows = [shape.compressed for shape in tiling.shapes]
            if not self._within(max(rows)):
                continue
            ratio = self._tiled_ratio(tiling)
            seconds = sum(map(self._seconds, rows))
            names = self._names(start, stop)
            block = Block(start, stop, "tiles", names, tile, tuple(rows), tiling.count, ratio, seconds)
            if best is None or (block.ratio, block.seconds) < (best.ratio, best.seconds):
                best = block
        return best

    def _within(self, rows: int) -> bool:
        self.smallest = min(self.smallest, rows)
        self.fits = self.fits or rows <= self.limit
        return rows <= self.limit

    def _seconds(self, rows: int) -> float:
        # The power iteration decomposes nothing; its multipliers are tried by a few factorisations.
        return self.cost.seconds(rows, 1 if self.config.solver == "power" else self.config.max_iterations)

    def _tile_sizes(self, own: Network) -> list[tuple[int, int]]:
        """Sizes for every pair of partition factors, the larger ones first, as long as one of their size may fit."""
        height, width = own.output_shape[1:]
        if self.config.partition_factors is not None:
            rows, columns = self.config.partition_factors
            return [(-(-height // min(rows, height)), -(-width // min(columns, width)))]
        sizes = [sorted({-(-n // f) for f in range(1, n + 1)})[:_LONGEST_AXIS_SEARCH] for n in (height, width)]
        found: list[tuple[int, int]] = []
        for h in sizes[0]:
            for w in sizes[1]:
                if found and time.monotonic() > self.deadline:
                    return found
                found.append((h, w))
                if max(shape.compressed for shape in Tiling(own, (h, w)).shapes) > self.limit:
                    break  # wider tiles are larger still
        return found

    def _tiled_ratio(self, tiling: Tiling) -> float:
        joint = _GAIN ** len(tiling.network.activations)
        if tiling.count == 1:
            return joint
        shape = tiling.shapes[0]
        rows, columns = (high - low for low, high in shape.boxes[0])
        area = math.prod(shape.size) * (tiling.network.input_shape[1] * tiling.network.input_shape[2])
        share = min(area / (math.prod(tiling.network.output_shape[1:]) * max(rows * columns, 1)), 1.0)
        form = joint + (1 - joint) * _HALO_LOSS * (1 - share) ** 2
        merged = self.config.merge == "form" and tiling.network.nodes[0].size <= LARGEST_MATRIX
        if self.config.partition == "tiles" or merged:
            return min(form, 0.999)
        if self.config.merge == "sum":
            return math.sqrt(tiling.count * share)
        covers = max(1.0, 1 / share)
        return math.sqrt(math.ceil(covers) * share)


def _joined(blocks: list[Block]) -> list[Block]:
    """Neighbouring blocks of norms are one."""
    joined: list[Block] = []
    for block in blocks:
        if joined and joined[-1].kind == block.kind == "norm":
            last = joined.pop()
            block = dataclasses.replace(block, start=last.start, layers=(last.layers[0], block.layers[1]))
        joined.append(block)
    return joined
