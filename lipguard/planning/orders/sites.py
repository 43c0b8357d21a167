"""Which variables of LipSDP's matrix meet, by groups of them: the pattern that an order of elimination is found for.

All channels of a pixel meet the same variables, so a layer's variables are grouped by pixel, or by blocks of pixels
where there are too many. The pattern comes from the architecture alone, and covers that of any weights.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg
import torch
from numpy.typing import NDArray

from lipguard.trusted.layers import (
    Activation,
    Add,
    Conv2d,
    Indices,
    Input,
    Layer,
    Matrix,
    Pad,
    Pick,
    Reshape,
    Scale,
    Shape,
)
from lipguard.trusted.lmi.matrices import freed_matrices
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs.order import FillsUpError

Array = NDArray[np.float64]
_MOST_SITES = 32_000
_MOST_READ = 4_000_000  # sites that sites of pre-activations read: a matrix that is fuller has no sparse proof
_FLAT = 256  # entries of a site of a value without pixels


@dataclass(frozen=True, eq=False)
class SiteGraph:
    """Groups of variables, and which of them meet.

    Attributes:
        site: of every variable, shape (variables,).
        meets: symmetric, without its diagonal, shape (sites, sites); what is stored meets.
        place: of every site on the input's image, about, shape (sites, 2); None where there is no image.
    """

    site: Indices
    meets: Matrix
    place: Array | None = None

    @property
    def sizes(self) -> Indices:
        """Variables of every site."""
        return np.bincount(self.site, minlength=self.meets.shape[0])


def site_graph(network: Network, check: Callable[[], None] = lambda: None) -> SiteGraph:
    """Of the matrix that sparse proofs factor: inputs, activations, outputs, and slopes of both signs once more.

    Args:
        network: any graph of layers.
        check: called before every layer; whatever it raises ends the search.

    Raises:
        FillsUpError: so many of them meet that no order of elimination leaves much empty.
    """
    grid = _Grid.fine_enough([network.nodes[i].shape for i in (0, *network.activations, len(network.nodes) - 1)])

    def pattern(layer: Layer, input_shape: Shape, shape: Shape) -> Matrix:
        check()
        return grid.pattern(layer, input_shape, shape)

    read = 0

    def count(rows: Matrix) -> None:
        nonlocal read
        read += rows.nnz
        if read > _MOST_READ:
            raise FillsUpError(f"more than {_MOST_READ} groups of variables meet")

    K, Y = freed_matrices(network, pattern, grid.sites, count)
    layers = [network.nodes[i] for i in network.activations]
    signs = [math.copysign(1.0, n.layer.alpha * n.layer.beta) * bool(n.layer.alpha * n.layer.beta) for n in layers
             if isinstance(n.layer, Activation)]  # fmt: skip
    starts = np.cumsum([0, *(grid.sites(node.shape) for node in layers)])
    ranges = [np.arange(a, b) for a, b in itertools.pairwise(starts)]
    none = np.zeros(0, dtype=np.int64)
    apart = np.concatenate([none, *(r for r, sign in zip(ranges, signs, strict=True) if sign < 0)])
    joint = np.concatenate([none, *(r for r, sign in zip(ranges, signs, strict=True) if sign > 0)])
    n, n_x = K.shape[1], grid.sites(network.input_shape)
    lower = sp.vstack([sp.csr_array((n_x, n)), K, Y, K[apart]], format="csr")
    lower.resize((lower.shape[0],) * 2)
    place = grid.places(network.input_shape, lower)
    opposite = [n_x + own for own, n in zip(ranges, layers, strict=True)
                if isinstance(n.layer, Activation) and n.layer.alpha + n.layer.beta == 0]  # fmt: skip
    if opposite:  # then an answer meets no question
        apart_from = np.ones(lower.shape[0])
        apart_from[np.concatenate(opposite)] = 0.0
        lower = sp.diags_array(apart_from) @ lower
        lower.eliminate_zeros()
    if len(joint):
        coupled = K[joint].T @ K[joint]
        coupled.resize(lower.shape)
        lower = lower + coupled
    shapes = [network.input_shape, *(node.shape for node in layers), network.output_shape]
    shapes += [node.shape for node, sign in zip(layers, signs, strict=True) if sign < 0]
    return SiteGraph(grid.site_of_every_entry(shapes), _symmetric(lower), place)


def layer_site_graph(layer: Layer, input_shape: Shape, shape: Shape) -> SiteGraph:
    """Of [[s I, W'], [W, s I]] for the matrix W of a layer."""
    shapes = [input_shape, shape]
    grid = _Grid.fine_enough(shapes)
    n, m = map(grid.sites, shapes)
    lower = sp.vstack([sp.csr_array((n, n)), grid.pattern(layer, input_shape, shape)], format="csr")
    lower.resize((n + m, n + m))
    return SiteGraph(grid.site_of_every_entry(shapes), _symmetric(lower), grid.places(input_shape, lower))


def gram_site_graph(layer: Layer, input_shape: Shape, shape: Shape) -> SiteGraph:
    """Of W W' for the matrix W of a layer, or of W' W where that is smaller."""
    grid = _Grid.fine_enough([input_shape, shape])
    W = grid.pattern(layer, input_shape, shape)
    if math.prod(input_shape) < math.prod(shape):
        W, shape = W.T, input_shape
    return SiteGraph(grid.site_of_every_entry([shape]), _symmetric(W @ W.T), grid.places(shape))


@dataclass(frozen=True)
class _Grid:
    """How values are cut into sites: an image into at most `across` blocks along each axis."""

    across: int

    @classmethod
    def fine_enough(cls, shapes: Sequence[Shape]) -> _Grid:
        """The finest with at most so many sites in all."""
        grid = cls(max([1, *(max(shape[1:]) for shape in shapes if _has_pixels(shape))]))
        while grid.across > 1 and sum(map(grid.sites, shapes)) > _MOST_SITES:
            grid = cls(max(1, grid.across * 3 // 4))
        return grid

    def sites(self, shape: Shape) -> int:
        """Number of sites of a value."""
        if _has_pixels(shape):
            return min(shape[1], self.across) * min(shape[2], self.across)
        return -(-math.prod(shape) // _FLAT)

    def places(self, input_shape: Shape, lower: Matrix | None = None) -> Array | None:
        """Where the sites of the input are on its image, in [0, 1], and every later one amid those that it reads.

        Args:
            input_shape: of the first value.
            lower: which sites read which earlier ones, shape (sites, sites); None where there are those of the input
                only.
        """
        if not _has_pixels(input_shape):
            return None
        rows, columns = (min(size, self.across) for size in input_shape[1:])
        own = np.indices((rows, columns)).reshape(2, -1).T / (rows, columns)
        if lower is None:
            return own
        mean = sp.csr_array((np.ones(lower.nnz), lower.indices, lower.indptr), lower.shape)
        mean = sp.diags_array(1 / np.maximum(np.diff(lower.indptr), 1)) @ mean
        given = np.zeros((lower.shape[0], 2))
        given[: len(own)] = own
        place: Array = scipy.sparse.linalg.spsolve_triangular(sp.eye_array(len(given)) - mean, given)
        return place

    def site_of_every_entry(self, shapes: Sequence[Shape]) -> Indices:
        """For values one after another, shape (entries,)."""
        starts = np.cumsum([0, *map(self.sites, shapes)])
        return np.concatenate([self._site(shape) + start for shape, start in zip(shapes, starts, strict=False)])

    def _site(self, shape: Shape) -> Indices:
        if _has_pixels(shape):
            return np.tile(self._block(shape), shape[0])
        return np.arange(math.prod(shape)) // _FLAT

    def _block(self, shape: Shape) -> Indices:
        rows, columns = (np.arange(size) * min(size, self.across) // size for size in shape[1:])
        return (rows[:, None] * min(shape[2], self.across) + columns).ravel()

    def pattern(self, layer: Layer, input_shape: Shape, shape: Shape) -> Matrix:
        """Which sites a layer's outputs read, shape (sites out, sites in); all of them where no more is known."""
        if isinstance(layer, (Conv2d, Pad)) and _has_pixels(shape) and _has_pixels(input_shape):
            pixels = _of_pixels(layer, input_shape, shape)
            if pixels is not None:
                coordinates = pixels.tocoo()
                to, source = self._block(shape)[coordinates.row], self._block(input_shape)[coordinates.col]
                return _pattern(to, source, self.sites(shape), self.sites(input_shape))
        elif isinstance(layer, Pick):
            source = layer.index.cpu().numpy().ravel()
            picked = np.flatnonzero(source >= 0)
            to, read = self._site(shape)[picked], self._site(input_shape)[source[picked]]
            return _pattern(to, read, self.sites(shape), self.sites(input_shape))
        elif isinstance(layer, (Input, Scale, Reshape, Add)) and math.prod(input_shape) == math.prod(shape):
            return _pattern(self._site(shape), self._site(input_shape), self.sites(shape), self.sites(input_shape))
        return sp.csr_array(np.ones((self.sites(shape), self.sites(input_shape))))


def _of_pixels(layer: Conv2d | Pad, input_shape: Shape, shape: Shape) -> Matrix | None:
    """The matrix of a layer for images of one channel: all channels of a pixel read the same pixels."""
    if isinstance(layer, Pad):
        if len(layer.padding) > 6:
            return None
        layer = Pad(layer.padding[:4])  # a padding of channels, as of a concatenation, moves no pixel
    else:
        layer = dataclasses.replace(layer, weight=torch.ones(1, 1, *layer.weight.shape[2:]), bias=None, groups=1)
    return layer.matrix((1, *input_shape[1:]), (1, *shape[1:]))


def _pattern(rows: Indices, columns: Indices, m: int, n: int) -> Matrix:
    return sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=(m, n))


def _symmetric(lower: Matrix) -> Matrix:
    """The pattern of a matrix and its transpose, without the diagonal."""
    both = (lower + lower.T).tocoo()
    off = both.row != both.col
    return sp.csr_array((np.ones(off.sum(), dtype=np.int8), (both.row[off], both.col[off])), shape=both.shape)


def _has_pixels(shape: Shape) -> bool:
    return len(shape) == 3 and shape[1] * shape[2] > 1
