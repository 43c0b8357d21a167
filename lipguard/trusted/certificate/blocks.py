"""The plan of a certification, a value: which subnetworks, solved how, at what predicted cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lipguard.errors import CertificateError
from lipguard.trusted.network.cutting import cut_behind, pieces_of, subnetwork
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.tiling import Tiling, is_tileable
from lipguard.trusted.network.unfolding import WHOLE, unfolded
from lipguard.trusted.proofs.kinds import CHECKS, OF_TILES

_TIED = {
    "channel": "one multiplier per channel: there is no time for more",
    "both": "one multiplier per channel, which few iterations find, and one per neuron: the better ones are taken",
}
KINDS = ("norm", "whole", "tiles")


@dataclass(frozen=True)
class Block:
    """One subnetwork between two separators of the network.

    Attributes:
        start, stop: nodes of the network; the block is everything behind `start` up to and including `stop`.
        kind: "norm" (its product of norms), "whole" (one LMI) or "tiles" (one LMI per tile shape, merged).
        layers: the paths of its first and last layer.
        tile: rows and columns of a tile, for kind "tiles".
        variables: rows of each LMI, as the solver sees it.
        tiles: number of tiles that the LMIs stand for.
        ratio: predicted bound over the block's product of norms.
        seconds: predicted time of the solves and of the proof.
        proof: a key of `CHECKS`; tiles have one of their own.
        reason: why this proof, in words.
        cuts: nodes of the network, inside a block of one LMI, behind which it is cut: a diagonal form is handed on.
        grids: tiles per axis of what is between two cuts; none where nothing is in tiles.
        multipliers: "neuron" (each has its own), "channel" (of an image they share one) or "both" (the better ones).
    """

    start: int
    stop: int
    kind: str
    layers: tuple[str, str]
    tile: tuple[int, int] | None = None
    variables: tuple[int, ...] = ()
    tiles: int = 0
    ratio: float = 1.0
    seconds: float = 0.0
    proof: str = OF_TILES
    reason: str = ""
    cuts: tuple[int, ...] = ()
    grids: tuple[tuple[int, int], ...] = ()
    multipliers: str = "neuron"

    @property
    def method(self) -> str:
        """How the block is bounded, in words."""
        if self.kind == "tiles" and self.tile is not None:
            return f"tiles {self.tile[0]}x{self.tile[1]}"
        if self.cuts or self.grids:
            tiled = [f"{rows}x{columns}" for rows, columns in self.grids if (rows, columns) != WHOLE]
            return f"one LMI, cut {len(self.cuts)} times" + (f", in {', '.join(tiled)} tiles" if tiled else "")
        return {"norm": "product of norms", "whole": "one LMI"}[self.kind]

    def network(self, network: Network) -> Network:
        """The block as a network of its own."""
        return subnetwork(network, self.start, self.stop)

    def parts(self, network: Network) -> list[Network]:
        """The networks that are solved: none, the block itself, or one per tile shape."""
        if self.kind == "norm":
            return []
        own = self.network(network)
        if self.kind == "whole":
            own = cut_behind(own, [i - self.start for i in self.cuts]) if self.cuts else own
            return [unfolded(own, dict(enumerate(self.grids)))] if self.grids else [own]
        tiling = self.tiling(own)
        return [tiling.shape_network(shape) for shape in tiling.shapes]

    def tiling(self, own: Network) -> Tiling:
        """The tiles, given the block's own network."""
        assert self.tile is not None
        return Tiling(own, self.tile)


@dataclass(frozen=True)
class PartitionPlan:
    """Blocks in order, from the input to the output; their bounds multiply.

    A plan depends on the architecture, the input shape and the settings, not on the weights.

    Attributes:
        architecture: digest of the network's architecture.
        blocks: the blocks.
        settings: the settings that it was searched for.
        considered: what else there was, and what spoke against it, in words.
    """

    architecture: str
    blocks: tuple[Block, ...]
    settings: Mapping[str, Any]
    considered: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Predicted time of all solves, one after the other."""
        return sum(block.seconds for block in self.blocks)

    @property
    def ratio(self) -> float:
        """Predicted bound over the product of all norms."""
        return math.prod(block.ratio for block in self.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        return dataclasses.asdict(self)

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

    def check(self, network: Network) -> None:
        """Check that the plan is one of this network: blocks follow each other and can be what they say.

        Raises:
            CertificateError: it is not.
        """
        if self.architecture != network.architecture:
            raise CertificateError("The partition plan belongs to a network of another architecture.")
        ends = [0, *(block.stop for block in self.blocks)]
        separators = set(network.separators)
        for block, end in zip(self.blocks, ends, strict=False):
            if block.start != end or block.stop <= block.start or {block.start, block.stop} - separators:
                raise CertificateError(
                    f"The partition plan has a block from node {block.start} to {block.stop}, which is no cut."
                )
            if block.proof not in CHECKS or (block.kind == "tiles" and block.proof != OF_TILES):
                raise CertificateError(f"The partition plan names the proof {block.proof!r} where it cannot be.")
            if block.cuts and not (
                block.kind == "whole" and set(block.cuts) <= set(range(block.start + 1, block.stop))
            ):
                raise CertificateError(
                    f"The partition plan cuts a block behind nodes {block.cuts}, where it cannot be."
                )
            if block.grids and not _can_unfold(block, network):
                raise CertificateError(f"The partition plan has tiles {block.grids} where they cannot be.")
            if block.kind not in KINDS or (block.kind == "tiles" and not _fits(block, network)):
                raise CertificateError(f"The partition plan has a block of kind {block.kind!r} where it cannot be.")
        if ends[-1] != len(network.nodes) - 1:
            raise CertificateError("The partition plan does not reach the network's output.")

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


def _block(state: Mapping[str, Any]) -> Block:
    tile = state["tile"]
    first, last = state["layers"]
    return Block(
        int(state["start"]), int(state["stop"]), str(state["kind"]), (str(first), str(last)),
        None if tile is None else (int(tile[0]), int(tile[1])), tuple(int(n) for n in state["variables"]),
        int(state["tiles"]), float(state["ratio"]), float(state["seconds"]), str(state["proof"]), str(state["reason"]),
        tuple(int(i) for i in state["cuts"]), tuple((int(rows), int(columns)) for rows, columns in state["grids"]),
        str(state["multipliers"]),
    )  # fmt: skip


def _can_unfold(block: Block, network: Network) -> bool:
    if block.kind != "whole" or not CHECKS[block.proof].in_pieces:
        return False
    cut = cut_behind(block.network(network), [i - block.start for i in block.cuts])
    if len(block.grids) != len(block.cuts) + 1 or len(pieces_of(cut)) != len(block.grids):
        return False
    try:
        return len(pieces_of(block.parts(network)[0])) > 1
    except ValueError:
        return False


def _fits(block: Block, network: Network) -> bool:
    own = block.network(network)
    return block.tile is not None and min(block.tile) > 0 and is_tileable(own) and all(
        side <= size for side, size in zip(block.tile, own.output_shape[1:], strict=True)
    )  # fmt: skip


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a plain-text table, columns aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
