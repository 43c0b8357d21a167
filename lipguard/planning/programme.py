"""Blocks whose bounds multiply: a dynamic programme over the separators of the network."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator

from lipguard.config import DCPConfig
from lipguard.errors import ConfigError
from lipguard.planning.machine import CostModel
from lipguard.planning.plan import PartitionPlan, PlannedBlock, settings_of
from lipguard.planning.whole import GAIN
from lipguard.trusted.layers import Add, Conv2d, Linear, Scale
from lipguard.trusted.network.cutting import subnetwork
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.tiling import Tiling, is_tileable, lmi_sizes, proof_size
from lipguard.trusted.proofs.tiles import LARGEST_MATRIX

_HALO_LOSS = 0.65  # what tiles give back of what a joint LMI gains (CNN1's convolutions, in tiles of 2 to 10)
_LONGEST_AXIS_SEARCH = 24
_WEIGHTS = (Conv2d, Linear, Scale)


class Programme:
    """The blocks of smallest predicted bound whose LMIs have at most `limit` rows.

    Args:
        network: the network.
        config: the settings.
        cost: speed of this machine.
        limit: rows of an LMI, at most.
        deadline: of `time.monotonic()`; what was not looked at by then is left to norms.
    """

    def __init__(self, network: Network, config: DCPConfig, cost: CostModel, limit: int, deadline: float) -> None:
        self.network, self.config, self.cost, self.limit = network, config, cost, limit
        self.deadline = deadline
        self.is_late = False
        self.smallest = math.inf  # rows of the smallest LMI seen, for the message when nothing fits
        self.fits = False
        self.to_be_tiled = self._convolutional_subnetworks() if config.partition == "tiles" else []

    def plan(self) -> PartitionPlan:
        """Of the blocks that were found.

        Raises:
            ConfigError: the network is to be one LMI, which has too many rows.
        """
        blocks = [self._whole_network()] if self.config.partition == "none" else self._shortest_path()
        return PartitionPlan(self.network.architecture, tuple(blocks), settings_of(self.config))

    def _whole_network(self) -> PlannedBlock:
        block = self._whole(0, len(self.network.nodes) - 1)
        if block is None and self.network.activations and not self.fits and self.limit == self.config.max_block_size:
            raise ConfigError(
                f"partition='none' puts the whole network into one LMI of {self.smallest:.0f} rows, which "
                f"max_block_size={self.limit} does not allow. Raise it, or let partition='auto' cut the network."
            )
        return block or self._norm(0, len(self.network.nodes) - 1)

    def _shortest_path(self) -> list[PlannedBlock]:
        """Dynamic programme: best[j] is the best sequence of blocks from the input to separator j."""
        separators = self.network.separators
        best: dict[int, tuple[tuple[float, float, int], list[PlannedBlock]]] = {0: ((0.0, 0.0, 0), [])}
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

    def _blocks_to(self, stop: int, starts: tuple[int, ...]) -> Iterator[PlannedBlock]:
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
                    if is_tileable(subnetwork(self.network, start, stop)):
                        found.append((start, stop))
                    break
        return found

    def _may_grow(self, start: int, stop: int) -> bool:
        """Whether a block that begins earlier could still fit, or be the smallest: it has these neurons at least."""
        own = subnetwork(self.network, start, stop)
        return own.neurons <= max(self.limit, self.smallest) or is_tileable(own)

    def _norm(self, start: int, stop: int) -> PlannedBlock:
        return PlannedBlock(start, stop, "norm", layers=self._names(start, stop))

    def _names(self, start: int, stop: int) -> tuple[str, str]:
        return self.network.nodes[start + 1].path, self.network.nodes[stop].path

    def _whole(self, start: int, stop: int) -> PlannedBlock | None:
        own = subnetwork(self.network, start, stop)
        if not own.activations:
            return None
        if any(start < last and first < stop for first, last in self.to_be_tiled):
            return None
        _, rows = lmi_sizes(own, [node.size for node in own.nodes])
        if not self._within(rows) or proof_size(own) > LARGEST_MATRIX:
            return None
        gain = GAIN ** len(own.activations)
        return PlannedBlock(
            start, stop, "whole", layers=self._names(start, stop), variables=(rows,), tiles=1, ratio=gain,
            seconds=self._seconds(rows),
        )  # fmt: skip

    def _tiled(self, start: int, stop: int) -> PlannedBlock | None:
        if self.config.partition in ("cuts", "none"):
            return None
        own = subnetwork(self.network, start, stop)
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
            block = PlannedBlock(
                start, stop, "tiles", tile, layers=names, variables=tuple(rows), tiles=tiling.count, ratio=ratio,
                seconds=seconds,
            )  # fmt: skip
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
        joint = GAIN ** len(tiling.network.activations)
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


def _joined(blocks: list[PlannedBlock]) -> list[PlannedBlock]:
    """Neighbouring blocks of norms are one."""
    joined: list[PlannedBlock] = []
    for block in blocks:
        if joined and joined[-1].kind == block.kind == "norm":
            last = joined.pop()
            block = dataclasses.replace(block, start=last.start, layers=(last.layers[0], block.layers[1]))
        joined.append(block)
    return joined
