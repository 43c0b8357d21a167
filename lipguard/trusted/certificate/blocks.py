"""What of a certification's plan a claim needs: which subnetworks, and how each of them is proved."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lipguard.errors import CertificateError
from lipguard.trusted.network.cutting import cut_behind, pieces_of, subnetwork
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.tiling import Tiling, is_tileable
from lipguard.trusted.network.unfolding import unfolded
from lipguard.trusted.proofs.kinds import CHECKS, OF_TILES

KINDS = ("norm", "whole", "tiles")


@dataclass(frozen=True)
class Block:
    """One subnetwork between two separators of the network.

    Attributes:
        start, stop: nodes of the network; the block is everything behind `start` up to and including `stop`.
        kind: "norm" (its product of norms), "whole" (one LMI) or "tiles" (one LMI per tile shape, merged).
        tile: rows and columns of a tile, for kind "tiles".
        proof: a key of `CHECKS`; tiles have one of their own.
        cuts: nodes of the network, inside a block of one LMI, behind which it is cut: a diagonal form is handed on.
        grids: tiles per axis of what is between two cuts; none where nothing is in tiles.
    """

    start: int
    stop: int
    kind: str
    tile: tuple[int, int] | None = None
    proof: str = OF_TILES
    cuts: tuple[int, ...] = ()
    grids: tuple[tuple[int, int], ...] = ()

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


def places_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Block`, from plain values; what there is beside them is not read.

    Raises:
        LookupError, TypeError, ValueError, OverflowError: a field is missing or of the wrong kind.
    """
    tile = state["tile"]
    return {
        "start": int(state["start"]), "stop": int(state["stop"]), "kind": str(state["kind"]),
        "tile": None if tile is None else (int(tile[0]), int(tile[1])), "proof": str(state["proof"]),
        "cuts": tuple(int(i) for i in state["cuts"]),
        "grids": tuple((int(rows), int(columns)) for rows, columns in state["grids"]),
    }  # fmt: skip


@dataclass(frozen=True)
class Partition:
    """Blocks in order, from the input to the output; their bounds multiply.

    Attributes:
        architecture: digest of the network's architecture.
        blocks: the blocks.
    """

    architecture: str
    blocks: tuple[Block, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Partition:
        """The inverse of `to_dict`; what there is beside it is not read.

        Raises:
            CertificateError: a field is missing or of the wrong kind.
        """
        try:
            return cls(str(state["architecture"]), tuple(Block(**places_of(block)) for block in state["blocks"]))
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise CertificateError(f"The partition plan cannot be read: {error!r}.") from error

    def check(self, network: Network) -> None:
        """Check that the partition is one of this network: blocks follow each other and can be what they say.

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
