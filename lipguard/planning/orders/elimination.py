"""In which order a sparse matrix is eliminated, and what that takes.

The order is one of minimum degree, or of nested dissection (`lipguard.planning.orders.dissection`), found on groups of
variables (`lipguard.planning.orders.sites`); it depends on the architecture alone, so that time and memory are known
before anything is allocated.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg

from lipguard.planning.orders.dissection import dissected
from lipguard.planning.orders.sites import SiteGraph, gram_site_graph, layer_site_graph, site_graph
from lipguard.trusted.layers import Conv2d, Indices, Matrix, Shape
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs.order import Elimination, FillsUpError, Front, NoOrderError

# What moving one entry of a front costs, and a front itself, in floating-point operations of its elimination.
_ENTRY, _FRONT = 100.0, 5e6
_STEPS = 64  # between two looks at the clock
_COMPARED = 8_000  # sites for which both orders are tried
_KEPT = 2e7  # variables, of all eliminations that are remembered
_MOST_ENTRIES = 1e11  # of the factor, or of what a front hands on: most of a terabyte
_KEPT_FULL = 256  # networks of which it is remembered that there is none
_FILL = 6e7  # sites that wait for all others together: half a gigabyte, and more than any proof has time for
_known: OrderedDict[str, Elimination] = OrderedDict()
_full: OrderedDict[str, FillsUpError] = OrderedDict()


def operations(elimination: Elimination) -> float:
    """Of a factorisation, the time to move entries included."""
    return sum(_work(front.pivots, front.rest) + _FRONT for front in elimination.fronts)


def elimination_of(network: Network, deadline: float = math.inf) -> Elimination:
    """Of the matrix that a sparse proof of `network` factors; found once for an architecture.

    Raises:
        NoOrderError: none is found before the deadline, of `time.monotonic()`, or none that fits into memory.
    """
    return _remembered(network.architecture, lambda: site_graph(network, lambda: check(deadline)), deadline)


def elimination_of_norm(
    layer: Conv2d, input_shape: Shape, shape: Shape, gram: bool, deadline: float = math.inf
) -> Elimination:
    """Of the matrix that proves the norm of a convolution, W W' or W' W or both; found once for its geometry.

    Raises:
        NoOrderError: as `elimination_of`.
    """
    geometry = (layer.weight.shape, layer.stride, layer.padding, layer.dilation, layer.groups, input_shape, shape, gram)
    graph = gram_site_graph if gram else layer_site_graph
    return _remembered(repr(geometry), lambda: graph(layer, input_shape, shape), deadline)


def check(deadline: float) -> None:
    """Go on only before a deadline.

    Raises:
        NoOrderError: it is later.
    """
    if time.monotonic() > deadline:
        raise NoOrderError("no time to look for an order of elimination")


def _remembered(key: str, graph: Callable[[], SiteGraph], deadline: float) -> Elimination:
    if key in _full:
        raise FillsUpError(str(_full[key]))
    if key in _known:
        _known.move_to_end(key)
    else:
        check(deadline)
        try:
            _known[key] = eliminate(graph(), deadline)
        except FillsUpError as error:
            _full[key] = error.with_traceback(None)
            while len(_full) > _KEPT_FULL:
                _full.popitem(last=False)
            raise
        while len(_known) > 1 and sum(len(known.order) for known in _known.values()) > _KEPT:
            _known.popitem(last=False)
    return _known[key]


def eliminate(graph: SiteGraph, deadline: float = math.inf) -> Elimination:
    """An order for a symmetric matrix: by minimum degree of its sites or by halving the image, whichever takes less.

    Raises:
        NoOrderError: as `elimination_of`.
    """
    pieces = [] if graph.place is None else dissected(graph.meets, graph.sizes, graph.place, lambda: check(deadline))
    orders = [_by_pieces(graph.meets, pieces)] if len(pieces) > 1 else []
    if not orders or len(graph.sizes) <= _COMPARED:
        orders.append(_minimum_degree(graph.meets))
    found: list[Elimination] = []
    for order in orders:
        try:
            found.append(_eliminated(graph, order, deadline))
        except NoOrderError:  # of two, one is enough
            if order is orders[-1] and not found:
                raise
    return min(found, key=operations)


def _eliminated(graph: SiteGraph, order: Indices, deadline: float) -> Elimination:
    tree = _Tree(graph.meets, graph.sizes, order, deadline)
    tree.merge()
    check(deadline)
    return tree.laid_out(graph.site)


def _by_pieces(meets: Matrix, pieces: Sequence[tuple[Indices, bool]]) -> Indices:
    """One piece after the other; those that are no separators by minimum degree."""
    return np.concatenate([
        sites if is_separator else sites[_minimum_degree(meets[sites][:, sites])] for sites, is_separator in pieces
    ])  # fmt: skip


def _minimum_degree(meets: Matrix) -> Indices:
    """Multiple minimum degree (Liu, ACM TOMS 11, 1985), as SuperLU has it.

    The order is all that is wanted: of the factors that come with it, as little as possible is computed.
    """
    m = meets.shape[0]
    A = sp.csc_array((-np.ones(meets.nnz), meets.indices, meets.indptr), shape=meets.shape)
    A = A + sp.diags_array(np.diff(meets.indptr) + 1.0)
    factors = scipy.sparse.linalg.spilu(
        A.tocsc(), drop_tol=1.0, fill_factor=1.0, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )  # fmt: skip
    order = np.empty(m, dtype=np.int64)
    order[factors.perm_c] = np.arange(m)
    return order


class _Tree:
    """The elimination tree of sites; node k is the site that is eliminated k-th, and those merged into it."""

    def __init__(self, meets: Matrix, sizes: Indices, order: Indices, deadline: float = math.inf) -> None:
        m = len(order)
        self.sites = order
        position = np.empty(m, dtype=np.int64)
        position[order] = np.arange(m)
        self.pivots: list[int] = sizes[order].tolist()
        self.members = [[k] for k in range(m)]
        self.later: list[Indices] = []  # ascending
        self.parent = [-1] * m
        self.children: list[list[int]] = [[] for _ in range(m)]
        self.rest: list[int] = []
        weights, fill, entries = sizes[order], 0, 0
        for k, site in enumerate(order):
            if k % _STEPS == 0:
                check(deadline)
            met = position[meets.indices[meets.indptr[site] : meets.indptr[site + 1]]]
            later = _union([met[met > k], *(self.later[j][1:] for j in self.children[k])])  # the first is k itself
            self.later.append(later)
            self.rest.append(int(weights[later].sum()))
            fill += len(later)
            entries += self.pivots[k] * self.rest[k]
            if fill > _FILL or max(entries, self.rest[k] ** 2) > _MOST_ENTRIES:
                raise FillsUpError("the matrix fills up in any order that was tried")
            if len(later):
                self.parent[k] = int(later[0])
                self.children[self.parent[k]].append(k)

    def merge(self) -> None:
        """Nodes into their parents, while that saves more than it costs: few large fronts, rather than many small."""
        for k in range(len(self.members)):
            waiting = list(self.children[k])
            kept = []
            while waiting:
                j = waiting.pop()
                apart = _work(self.pivots[j], self.rest[j]) + _work(self.pivots[k], self.rest[k]) + _FRONT
                if _work(self.pivots[j] + self.pivots[k], self.rest[k]) <= apart:
                    self.members[k] = self.members[j] + self.members[k]
                    self.pivots[k] += self.pivots[j]
                    self.members[j] = []
                    waiting += self.children[j]
                else:
                    kept.append(j)
            self.children[k] = kept

    def laid_out(self, site: Indices) -> Elimination:
        """The fronts, children first, and the order of variables that they make."""
        roots = [k for k, parent in enumerate(self.parent) if parent < 0]
        nodes, depths = self._postorder(roots)
        sequence = np.array([k for node in nodes for k in sorted(self.members[node])])
        rank = np.empty(len(sequence), dtype=np.int64)
        rank[self.sites[sequence]] = np.arange(len(sequence))
        place = np.empty(len(sequence), dtype=np.int64)
        place[sequence] = np.arange(len(sequence))
        order = np.argsort(rank[site], kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(rank[site], minlength=len(sequence)))])
        index = {node: i for i, node in enumerate(nodes)}
        fronts, first = [], 0
        for node, depth in zip(nodes, depths, strict=True):
            last = first + len(self.members[node])
            later = np.sort(place[self.later[node]])
            children = tuple(sorted(index[j] for j in self.children[node]))
            fronts.append(Front(int(starts[first]), int(starts[last]), _ranges(later, starts), children, depth % 2))
            first = last
        return Elimination(order, tuple(fronts), _stacks(fronts))

    def _postorder(self, roots: Sequence[int]) -> tuple[list[int], list[int]]:
        nodes: list[int] = []
        depths: list[int] = []
        stack = [(root, 0, False) for root in roots]
        while stack:
            node, depth, done = stack.pop()
            if done:
                nodes.append(node)
                depths.append(depth)
                continue
            stack.append((node, depth, True))
            # The child that leaves most behind goes first: less waits while the others are worked on.
            stack += [(j, depth + 1, False) for j in sorted(self.children[node], key=lambda j: self.rest[j])]
        return nodes, depths


def _union(parts: Sequence[Indices]) -> Indices:
    """The numbers that are in any of some arrays, ascending."""
    largest = max(parts, key=len)
    if sum(map(len, parts)) == len(largest) and len(parts) > 1:
        parts = [largest]
    together = np.sort(np.concatenate(parts))
    if len(together) < 2:
        return together
    distinct: Indices = together[np.append(True, together[1:] != together[:-1])]
    return distinct


def _work(pivots: int, rest: int) -> float:
    """Operations of a front, the time to move its entries included."""
    p, r = float(pivots), float(rest)
    return p**3 / 3 + p * p * r + p * r * r + _ENTRY * (p + r) ** 2


def _ranges(places: Indices, starts: Indices) -> tuple[tuple[int, int], ...]:
    """The variables of the sites at ascending places, as ranges."""
    if not len(places):
        return ()
    breaks = np.flatnonzero(np.diff(places) > 1)
    first, last = places[np.append(0, breaks + 1)], places[np.append(breaks, len(places) - 1)]
    return tuple(zip(starts[first].tolist(), starts[last + 1].tolist(), strict=True))


def _stacks(fronts: Sequence[Front]) -> tuple[int, int]:
    """Entries on each stack, at most."""
    now, most = [0, 0], [0, 0]
    for front in fronts:
        now[front.side] += front.rest**2
        most[front.side] = max(most[front.side], now[front.side])
        now[1 - front.side] -= sum(fronts[j].rest ** 2 for j in front.children)
    return most[0], most[1]
