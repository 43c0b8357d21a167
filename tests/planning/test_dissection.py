"""Nested dissection: halves that do not meet, separators as small as can be, and what both are worth on images."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lipguard.planning.orders import dissection
from lipguard.planning.orders.dissection import dissected
from lipguard.planning.orders.elimination import eliminate, operations
from lipguard.planning.orders.sites import SiteGraph, site_graph
from lipguard.trusted.reading.trace import trace


def grid(rows: int, columns: int, reach: int = 1, channels: int = 1) -> SiteGraph:
    """Pixels that meet those at most `reach` away."""
    place = np.indices((rows, columns)).reshape(2, -1).T
    apart = np.abs(place[:, None] - place[None]).max(axis=2)
    meets = sp.csr_array(((apart <= reach) & (apart > 0)).astype(np.int8))
    return SiteGraph(np.arange(rows * columns).repeat(channels), meets, place / (rows, columns))


def is_a_dissection(graph: SiteGraph, pieces: list[tuple[np.ndarray, bool]]) -> bool:
    """Every site once, and pieces that meet have a separator between them that comes later, or are one."""
    order = np.concatenate([sites for sites, _ in pieces])
    if not np.array_equal(np.sort(order), np.arange(len(graph.sizes))):
        return False
    piece = np.empty(len(order), dtype=int)
    for k, (sites, _) in enumerate(pieces):
        piece[sites] = k
    meets = graph.meets.tocoo()
    later = np.maximum(piece[meets.row], piece[meets.col])
    separates = np.array([is_separator for _, is_separator in pieces])
    return bool((separates[later] | (piece[meets.row] == piece[meets.col])).all())


@pytest.mark.parametrize("smallest", [1, 5, 40])
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (8, 8), (13, 7)])
@pytest.mark.parametrize("reach", [1, 2])
def test_grids(shape: tuple[int, int], reach: int, smallest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dissection, "_SMALLEST", smallest)
    graph = grid(*shape, reach)
    pieces = dissected(graph.meets, graph.sizes, graph.place)
    assert is_a_dissection(graph, pieces)
    if shape == (8, 8) and smallest < 64:
        last, is_separator = pieces[-1]
        assert is_separator
        assert len(last) == 8 * reach  # a straight line


@given(st.integers(0, 10**6), st.integers(1, 60), st.floats(0, 0.3))
def test_graphs_that_are_no_images(seed: int, n: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    meets = sp.random_array((n, n), density=density, rng=rng, format="csr")
    meets = (meets + meets.T).tocsr()
    graph = SiteGraph(np.arange(n), meets, rng.integers(0, 4, (n, 2)) / 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dissection, "_SMALLEST", 4)
        assert is_a_dissection(graph, dissected(graph.meets, graph.sizes, graph.place))


def test_places_that_are_all_the_same_are_not_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dissection, "_SMALLEST", 2)
    graph = grid(4, 4)
    ((sites, is_separator),) = dissected(graph.meets, graph.sizes, np.zeros((16, 2)))
    assert len(sites) == 16
    assert not is_separator


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5))
def test_a_vertex_cover_is_the_lightest(seed: int, m: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    edges = rng.random((m, n)) < 0.5
    left, right = rng.integers(1, 20, m), rng.integers(1, 20, n)
    lightest = min(
        left[list(one)].sum() + right[list(other)].sum()
        for one in itertools.product([False, True], repeat=m)
        for other in itertools.product([False, True], repeat=n)
        if (np.array(one)[:, None] | np.array(other) | ~edges).all()
    )
    one, other = dissection._vertex_cover(sp.csr_array(edges.astype(np.int8)), left, right)
    assert (one[:, None] | other | ~edges).all()
    assert left[one].sum() + right[other].sum() == lightest


def test_halving_takes_less_than_minimum_degree_on_a_deep_network() -> None:
    layers = [m for _ in range(8) for m in (nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())]
    graph = site_graph(trace(nn.Sequential(*layers), (4, 24, 24)))
    by_degree = eliminate(SiteGraph(graph.site, graph.meets))
    found = eliminate(graph)
    assert operations(found) < 0.9 * operations(by_degree)
    assert found.bytes < 0.8 * by_degree.bytes


def test_large_graphs_are_not_ordered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    from lipguard.planning.orders import elimination

    graph = grid(20, 20)
    monkeypatch.setattr(elimination, "_COMPARED", 399)
    monkeypatch.setattr(
        elimination,
        "_minimum_degree",
        lambda meets: np.arange(meets.shape[0]) if meets.shape[0] < 400 else pytest.fail("ordered twice"),
    )
    assert len(eliminate(graph).order) == 400
