"""Nested dissection of an image: an order of elimination that halves it, and eliminates what separates the halves last.

George (SIAM J. Numer. Anal. 10, 1973) did it on grids. Here sites of all layers lie on one image; a line through it
leaves those that meet across it, and the fewest variables that separate the halves are a vertex cover of that bipartite
graph, hence a minimum cut (Koenig's theorem, with weights).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse import csgraph

from lipguard.trusted.layers import Indices, Matrix

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
_SMALLEST = 150  # sites that are not halved
_LINES = (0.42, 0.46, 0.5, 0.54, 0.58)  # shares of the variables before the line
_LOPSIDED = 0.7  # the larger half, at most
_BALANCE = 0.5  # what a half that is larger by all variables adds to the separator, relative


def dissected(
    meets: Matrix, sizes: Indices, place: Array, check: Callable[[], None] = lambda: None
) -> list[tuple[Indices, bool]]:
    """Pieces of a graph in order of elimination: (sites, whether they are a separator).

    Args:
        meets: symmetric, shape (sites, sites).
        sizes: variables of every site.
        place: of every site, shape (sites, axes).
        check: called again and again; whatever it raises ends the search.
    """
    meets = sp.csr_array((np.ones(meets.nnz, dtype=np.int8), meets.indices, meets.indptr), meets.shape)
    pieces: list[tuple[Indices, bool]] = []
    waiting = [(np.arange(len(sizes)), False)]
    while waiting:
        part, done = waiting.pop()
        halves = (
            None if done or len(part) <= _SMALLEST else _halves(meets[part][:, part], sizes[part], place[part], check)
        )
        if halves is None:
            if len(part):
                pieces.append((part, done))
            continue
        one, other, separator = (part[mask] for mask in halves)
        waiting += [(separator, True), (other, False), (one, False)]
    return pieces


def _halves(meets: Matrix, sizes: Indices, place: Array, check: Callable[[], None]) -> tuple[Mask, Mask, Mask] | None:
    """The two halves and what separates them, by the best of some lines; None where no line halves them."""
    best, least = None, np.inf
    total = sizes.sum()
    for before in _lines(sizes, place):
        check()
        kept, separator = _separated(meets, sizes, before)
        weight = sizes[separator].sum()
        one, other = sizes[before & kept].sum(), sizes[~before & kept].sum()
        if min(one, other) == 0 or max(one, other) > _LOPSIDED * total:
            continue
        price = weight * (1 + _BALANCE * abs(one - other) / total)
        if price < least:
            best, least = (before & kept, ~before & kept, separator), price
    return best


def _lines(sizes: Indices, place: Array) -> list[Mask]:
    """Which sites are before a line, for lines along every axis; none twice."""
    found: dict[bytes, Mask] = {}
    for coordinate in place.T:
        order = np.argsort(coordinate, kind="stable")
        passed = np.cumsum(sizes[order])
        for share in _LINES:
            line = coordinate[order[np.searchsorted(passed, share * passed[-1])]]
            for before in (coordinate <= line + 1e-9, coordinate < line - 1e-9):
                found[before.tobytes()] = before
    return [before for before in found.values() if before.any() and not before.all()]


def _separated(meets: Matrix, sizes: Indices, before: Mask) -> tuple[Mask, Mask]:
    """(what stays in its half, what separates them): the fewest variables without which nothing meets across."""
    one, other = np.flatnonzero(before), np.flatnonzero(~before)
    across = meets[one][:, other]
    rows, columns = np.flatnonzero(np.diff(across.indptr)), np.unique(across.indices)
    separator = np.zeros(len(before), dtype=bool)
    if len(rows):
        cover = _vertex_cover(across[rows][:, columns], sizes[one[rows]], sizes[other[columns]])
        separator[one[rows[cover[0]]]] = True
        separator[other[columns[cover[1]]]] = True
    return ~separator, separator


def _vertex_cover(edges: Matrix, left: Indices, right: Indices) -> tuple[Mask, Mask]:
    """Vertices of a bipartite graph, the lightest that touch every edge: a minimum cut from left to right."""
    m, n = edges.shape
    source, sink = m + n, m + n + 1
    coordinates = edges.tocoo()
    tails = np.concatenate([np.full(m, source), coordinates.row, m + np.arange(n)])
    heads = np.concatenate([np.arange(m), m + coordinates.col, np.full(n, sink)])
    unlimited = np.full(edges.nnz, left.sum() + right.sum() + 1)
    capacities = np.concatenate([left, unlimited, right]).astype(np.int32)
    graph = sp.csr_array((capacities, (tails, heads)), shape=(m + n + 2,) * 2)
    residual = (graph - csgraph.maximum_flow(graph, source, sink).flow).tocsr()
    residual.data = np.maximum(residual.data, 0)
    residual.eliminate_zeros()
    reached = np.zeros(m + n + 2, dtype=bool)
    reached[csgraph.breadth_first_order(residual, source, return_predecessors=False)] = True
    return ~reached[:m], reached[m : m + n]
