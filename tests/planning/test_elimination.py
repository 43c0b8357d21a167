"""Orders of elimination: what a multifrontal factorisation relies on, and what it is told about its price."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg
from helpers.eliminations import elimination_for
from helpers.networks import Sample, networks, with_weights
from hypothesis import given
from torch import nn

from lipguard.planning.orders import elimination
from lipguard.planning.orders.elimination import elimination_of, elimination_of_norm, operations
from lipguard.planning.orders.sites import site_graph
from lipguard.trusted.layers import Conv2d
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs.order import Elimination, Front, NoOrderError
from lipguard.trusted.reading.trace import trace


def assert_is_one(order: Elimination, n: int) -> None:
    """Every variable once; children before parents, which know what they leave; stacks as large as is needed."""
    assert np.array_equal(np.sort(order.order), np.arange(n))
    assert [0, *(front.stop for front in order.fronts)] == [*(front.start for front in order.fronts), n]
    waiting: tuple[list[int], list[int]] = ([], [])
    most = [0, 0]
    for k, front in enumerate(order.fronts):
        edges = list(itertools.chain((front.start, front.stop), *front.later))
        assert edges == sorted(edges)
        assert edges[-1] <= n
        known = {v for start, stop in ((front.start, front.stop), *front.later) for v in range(start, stop)}
        assert front.pivots == front.stop - front.start > 0
        assert front.rest == len(known) - front.pivots
        for child in front.children:
            assert child < k
            assert {v for start, stop in order.fronts[child].later for v in range(start, stop)} <= known
        if front.rest:
            waiting[front.side].append(k)
        for side in (0, 1):
            most[side] = max(most[side], sum(order.fronts[j].rest ** 2 for j in waiting[side]))
        for child in reversed(front.children):  # the last that came
            assert waiting[1 - front.side].pop() == child
    assert waiting == ([], [])
    assert tuple(most) == order.stacks


@given(networks())
def test_orders_of_networks(sample: Sample) -> None:
    network = trace(sample.model, sample.input_shape)
    order = elimination_of(network)
    assert_is_one(order, len(order.order))
    assert len(order.order) >= network.neurons + network.nodes[0].size + network.nodes[-1].size
    assert order.largest <= len(order.order)
    assert operations(order) > 0
    assert order.bytes > 0


@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_orders_of_matrices(n: int, density: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for price in (0.0, 5e6):
        monkeypatch.setattr(elimination, "_FRONT", price)
        monkeypatch.setattr(elimination, "_ENTRY", 0.0)
        A = sp.random_array((n, n), density=density, rng=np.random.default_rng(n), format="csr")
        order = elimination_for(A)
        assert_is_one(order, n)
        # Front by front, no more than a dense factorisation.
        assert operations(order) <= n**3 / 3 + len(order.fronts) * price + 1e-9 * n**3


def test_a_chain_has_small_fronts_and_a_dense_matrix_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elimination, "_FRONT", 0.0)
    monkeypatch.setattr(elimination, "_ENTRY", 0.0)
    chain = elimination_for(sp.diags_array(np.ones(99), offsets=1, shape=(100, 100), format="csr"))
    assert chain.largest <= 3
    assert len(chain.fronts) > 30
    dense = elimination_for(sp.csr_array(np.ones((20, 20))))
    assert dense.fronts == (Front(0, 20, (), (), 0),)
    assert operations(dense) == pytest.approx(20**3 / 3)


def test_the_price_of_a_front() -> None:
    order = Elimination(np.arange(5), (Front(0, 2, ((2, 4),), (), 1), Front(2, 5, (), (0,), 0)), (0, 4))
    own = (2**3 / 3 + 2 * 2 * 2 + 2 * 2 * 2, 3**3 / 3)
    moved = elimination._ENTRY * (4**2 + 3**2)
    assert operations(order) == pytest.approx(sum(own) + moved + 2 * elimination._FRONT)
    assert order.largest == 4
    assert order.bytes == 8 * (4 + 2 * 9)


def cnn(width: int = 3, slope: float = 0.0) -> Network:
    model = nn.Sequential(nn.Conv2d(1, width, 3), nn.LeakyReLU(slope), nn.Flatten(), nn.Linear(width * 16, 2))
    return trace(with_weights(model, width), (1, 6, 6))


def test_orders_are_found_once_for_an_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    first = elimination_of(cnn())
    assert elimination_of(cnn()) is first  # other weights, or the same
    assert elimination_of(cnn(slope=0.1)) is not first
    assert elimination_of(cnn(width=4)) is not first
    monkeypatch.setattr(elimination, "_KEPT", 5 * len(first.order))
    for width in range(5, 15):
        elimination_of(cnn(width))
    assert sum(len(known.order) for known in elimination._known.values()) <= elimination._KEPT
    again = elimination_of(cnn())
    assert again is not first  # it was forgotten, and is the same
    assert np.array_equal(again.order, first.order)
    assert again.fronts == first.fronts


def test_orders_of_norms_depend_on_the_geometry() -> None:
    layer = cnn().nodes[1].layer
    assert isinstance(layer, Conv2d)
    own, gram = (elimination_of_norm(layer, (1, 6, 6), (3, 4, 4), gram=flag) for flag in (False, True))
    assert_is_one(own, 36 + 48)
    assert_is_one(gram, 36)
    assert elimination_of_norm(layer, (1, 6, 6), (3, 4, 4), gram=False) is own
    strided = dataclasses.replace(layer, stride=(2, 2))
    assert_is_one(elimination_of_norm(strided, (1, 6, 6), (3, 2, 2), gram=True), 12)


def test_an_order_is_not_looked_for_after_the_deadline_unless_it_is_known() -> None:
    elimination._known.clear()
    network = cnn(width=5)
    with pytest.raises(NoOrderError):
        elimination_of(network, -math.inf)
    known = elimination_of(network)
    assert elimination_of(network, -math.inf) is known


def test_a_search_for_an_order_ends_wherever_the_deadline_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks with every look at it."""
    found = []
    for deadline in (0.5, 1.5, 3.5, 8.5, 1e6):
        elimination._known.clear()
        clock = itertools.count()
        monkeypatch.setattr(elimination.time, "monotonic", lambda clock=clock: float(next(clock)))
        try:
            found.append(elimination_of(cnn(width=5), deadline))
        except NoOrderError:
            found.append(None)
            assert next(clock) <= deadline + 2  # it looked no further
    assert found[0] is None
    assert found[-1] is not None


def test_a_matrix_that_fills_up_has_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    elimination._known.clear()
    monkeypatch.setattr(elimination, "_FILL", 10)
    with pytest.raises(NoOrderError):
        elimination_of(cnn(width=5))


def test_the_order_of_minimum_degree_is_that_of_the_full_factorisation() -> None:
    meets = site_graph(cnn(width=5)).meets
    m = meets.shape[0]
    A = sp.csc_array((-np.ones(meets.nnz), meets.indices, meets.indptr), shape=meets.shape)
    A = (A + sp.diags_array(np.diff(meets.indptr) + 1.0)).tocsc()
    options = {"SymmetricMode": True}
    full = scipy.sparse.linalg.splu(A, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    order = np.empty(m, dtype=np.int64)
    order[full.perm_c] = np.arange(m)
    assert np.array_equal(elimination._minimum_degree(meets), order)
