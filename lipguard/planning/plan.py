"""The plan of a certification, a value: which subnetworks, solved how, at what predicted cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lipguard.config import DCPConfig
from lipguard.errors import CertificateError
from lipguard.planning.table import table
from lipguard.trusted.certificate.blocks import Block, Partition, places_of
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.tiling import lmi_sizes
from lipguard.trusted.network.unfolding import WHOLE

_TIED = {
    "channel": "one multiplier per channel: there is no time for more",
    "both": "one multiplier per channel, which few iterations find, and one per neuron: the better ones are taken",
}


@dataclass(frozen=True, kw_only=True)
class PlannedBlock(Block):
    """A block, with what is predicted of it.

    Attributes:
        layers: the paths of its first and last layer.
        variables: rows of each LMI, as the solver sees it.
        tiles: number of tiles that the LMIs stand for.
        ratio: predicted bound over the block's product of norms.
        seconds: predicted time of the solves and of the proof.
        reason: why this proof, in words.
        multipliers: "neuron" (each has its own), "channel" (of an image they share one) or "both" (the better ones).
    """

    layers: tuple[str, str]
    variables: tuple[int, ...] = ()
    tiles: int = 0
    ratio: float = 1.0
    seconds: float = 0.0
    reason: str = ""
    multipliers: str = "neuron"

    @classmethod
    def unpriced(cls, block: Block, network: Network) -> PlannedBlock:
        """A block of a network of which nothing is predicted."""
        parts = block.parts(network)
        rows = tuple(lmi_sizes(part, [node.size for node in part.nodes])[1] for part in parts)
        tiles = sum(rows * columns for rows, columns in block.grids) or len(parts)
        if block.kind == "tiles":
            tiles = block.tiling(block.network(network)).count
        names = network.nodes[block.start + 1].path, network.nodes[block.stop].path
        return cls(**_places(block), layers=names, variables=rows, tiles=tiles)

    @property
    def method(self) -> str:
        """How the block is bounded, in words."""
        if self.kind == "tiles" and self.tile is not None:
            return f"tiles {self.tile[0]}x{self.tile[1]}"
        if self.cuts or self.grids:
            tiled = [f"{rows}x{columns}" for rows, columns in self.grids if (rows, columns) != WHOLE]
            return f"one LMI, cut {len(self.cuts)} times" + (f", in {', '.join(tiled)} tiles" if tiled else "")
        return {"norm": "product of norms", "whole": "one LMI"}[self.kind]


@dataclass(frozen=True)
class PartitionPlan(Partition):
    """A partition, with what is predicted of it.

    A plan depends on the architecture, the input shape and the settings, not on the weights.

    Attributes:
        settings: the settings that it was searched for.
        considered: what else there was, and what spoke against it, in words.
    """

    blocks: tuple[PlannedBlock, ...]
    settings: Mapping[str, Any]
    considered: tuple[str, ...] = ()

    @classmethod
    def unpriced(cls, partition: Partition, network: Network) -> PartitionPlan:
        """The plan of a network of which only the partition is known; no settings fit it."""
        blocks = tuple(PlannedBlock.unpriced(block, network) for block in partition.blocks)
        return cls(partition.architecture, blocks, {})

    @property
    def partition(self) -> Partition:
        """What of it a claim needs."""
        return Partition(self.architecture, tuple(Block(**_places(block)) for block in self.blocks))

    @property
    def seconds(self) -> float:
        """Predicted time of all solves, one after the other."""
        return sum(block.seconds for block in self.blocks)

    @property
    def ratio(self) -> float:
        """Predicted bound over the product of all norms."""
        return math.prod(block.ratio for block in self.blocks)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> PartitionPlan:
        """The inverse of `to_dict`.

        Raises:
            CertificateError: a field is missing or of the wrong kind.
        """
        try:
            blocks = tuple(_block(block) for block in state["blocks"])
            considered = tuple(str(line) for line in state["considered"])
            return cls(str(state["architecture"]), blocks, dict(state["settings"]), considered)
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise CertificateError(f"The partition plan cannot be read: {error!r}.") from error

    def __str__(self) -> str:
        header = ("block", "layers", "method", "LMI rows", "solves", "tiles", "proof", "predicted ratio", "predicted s")
        rows = [
            (
                str(i), " .. ".join(dict.fromkeys(block.layers)), block.method,
                ", ".join(map(str, block.variables)) or "-", str(len(block.variables)), str(block.tiles or "-"),
                "-" if block.kind == "norm" else block.proof, f"{block.ratio:.3f}", f"{block.seconds:.1f}",
            )
            for i, block in enumerate(self.blocks)
        ]  # fmt: skip
        total = f"predicted: {self.ratio:.3f} of the product of norms, {self.seconds:.1f} s of solves"
        why = [f"block {i}: {block.proof} proof: {block.reason}" for i, block in enumerate(self.blocks) if block.reason]
        why += [f"block {i}: {_TIED[b.multipliers]}" for i, b in enumerate(self.blocks) if b.multipliers in _TIED]
        others = ["considered:", *(f"  {line}" for line in self.considered)] if self.considered else []
        return "\n".join([*table(header, rows), *why, total, *others])


def _places(block: Block) -> dict[str, Any]:
    return {field.name: getattr(block, field.name) for field in dataclasses.fields(Block)}


def _block(state: Mapping[str, Any]) -> PlannedBlock:
    first, last = state["layers"]
    return PlannedBlock(
        **places_of(state), layers=(str(first), str(last)), variables=tuple(int(n) for n in state["variables"]),
        tiles=int(state["tiles"]), ratio=float(state["ratio"]), seconds=float(state["seconds"]),
        reason=str(state["reason"]), multipliers=str(state["multipliers"]),
    )  # fmt: skip


def settings_of(config: DCPConfig) -> dict[str, Any]:
    """The settings that decide a plan."""
    names = (
        "partition", "solver", "merge", "proof", "failure_probability", "max_block_size", "partition_factors",
        "max_seconds", "max_memory", "max_iterations", "multipliers",
    )  # fmt: skip
    factors = config.partition_factors
    return {name: getattr(config, name) for name in names} | {"partition_factors": factors and list(factors)}
