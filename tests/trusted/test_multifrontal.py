"""The sparse factorisation against numpy's, and against orders that do not fit."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from helpers.eliminations import elimination_for
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lipguard.planning.orders import elimination
from lipguard.trusted.proofs import multifrontal
from lipguard.trusted.proofs.multifrontal import factors
from lipguard.trusted.proofs.order import Elimination

Array = NDArray[np.float64]


def random_matrix(n: int, density: float, seed: int) -> Any:
    """Symmetric, without its diagonal."""
    rng = np.random.default_rng(seed)
    lower = np.tril(np.where(rng.random((n, n)) < density, rng.standard_normal((n, n)), 0.0), -1)
    return sp.csr_array(lower + lower.T)


def grid(rows: int, columns: int, seed: int = 0) -> Any:
    """A matrix on the edges of a grid: the pattern of a convolution."""
    chains = [sp.diags_array(np.ones(size - 1), offsets=1, shape=(size, size)) for size in (rows, columns)]
    pattern = sp.kronsum(chains[1], chains[0], format="csr")
    pattern.data = np.random.default_rng(seed).standard_normal(pattern.nnz)
    return sp.csr_array(pattern + pattern.T)


def shifted(A: Any, smallest: float) -> tuple[Any, Array]:
    """(lower, diagonal) of A + s I, whose smallest eigenvalue is given."""
    dense = A.toarray()
    s = smallest - float(np.linalg.eigvalsh(dense)[0])
    return sp.tril(A, -1, format="csr"), np.full(len(dense), s)


SHAPES = [(1, 0.0), (2, 1.0), (7, 0.0), (30, 0.1), (40, 0.05), (50, 1.0), (80, 0.02)]
MERGING = [(100.0, 5e6), (0.0, 0.0), (0.0, 1e30)]  # as it is, none, all of a component


@pytest.mark.parametrize("merging", MERGING)
@pytest.mark.parametrize(("n", "density"), SHAPES)
@pytest.mark.parametrize("chunk", [1, 3, 384])
def test_definite_or_not(
    n: int, density: float, chunk: int, merging: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multifrontal, "_CHUNK", chunk)
    monkeypatch.setattr(elimination, "_ENTRY", merging[0])
    monkeypatch.setattr(elimination, "_FRONT", merging[1])
    for seed in range(3):
        A = random_matrix(n, density, seed)
        order = elimination_for(A)
        assert factors(*shifted(A, 1e-8), order)
        assert not factors(*shifted(A, -1e-8), order)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_groups_of_variables_on_a_grid(rows: int, columns: int, channels: int, seed: int) -> None:
    """Every variable of a pixel meets every variable of its neighbours."""
    pixels = grid(rows, columns, seed)
    block = np.random.default_rng(seed).standard_normal((channels, channels))
    A = sp.csr_array(sp.kron(block + block.T, pixels))
    order = elimination_for(A, np.tile(np.arange(rows * columns), channels))
    assert factors(*shifted(A, 1e-8), order)
    assert not factors(*shifted(A, -1e-8), order)


@pytest.mark.parametrize("merging", MERGING)
def test_pivots_are_those_of_numpy(merging: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elimination, "_ENTRY", merging[0])
    monkeypatch.setattr(elimination, "_FRONT", merging[1])
    monkeypatch.setattr(multifrontal, "_CHUNK", 5)
    found = []
    own = torch.linalg.cholesky_ex

    def recorded(A: torch.Tensor) -> Any:
        result = own(A)
        found.append(result.L.diagonal().clone())
        return result

    monkeypatch.setattr(torch.linalg, "cholesky_ex", recorded)
    A = grid(8, 9)
    order = elimination_for(A)
    lower, diagonal = shifted(A, 0.1)
    assert factors(lower, diagonal, order)
    permuted = (A.toarray() + np.diag(diagonal))[np.ix_(order.order, order.order)]
    np.testing.assert_allclose(torch.cat(found), np.diag(np.linalg.cholesky(permuted)), rtol=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("place", [0, 20, -1])
def test_what_is_not_a_number_is_never_accepted(value: float, place: int) -> None:
    """1e200 overflows when it is squared."""
    A = grid(5, 6)
    order = elimination_for(A)
    lower, diagonal = shifted(A, 1.0)
    assert factors(lower, diagonal, order)
    wrong = diagonal.copy()
    wrong[place] = value
    if value != 1e200:
        assert not factors(lower, wrong, order)
    lower.data[place] = value
    assert not factors(lower, diagonal, order)


def test_time_that_is_over_proves_nothing() -> None:
    A = grid(5, 6)
    lower, diagonal = shifted(A, 1.0)
    assert not factors(lower, diagonal, elimination_for(A), time.monotonic() - 1)
    assert factors(lower, diagonal, elimination_for(A), time.monotonic() + 60)


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Array, Elimination]:
    """A matrix with an order of many fronts, some with two children."""
    monkeypatch.setattr(elimination, "_ENTRY", 0.0)
    monkeypatch.setattr(elimination, "_FRONT", 0.0)
    A = grid(6, 6)
    order = elimination_for(A)
    assert len(order.fronts) > 6
    assert max(len(front.children) for front in order.fronts) > 1
    return *shifted(A, 1.0), order


def malformed(good: Elimination) -> dict[str, Elimination]:
    fronts = good.fronts
    parent = next(k for k, front in enumerate(fronts) if len(front.children) > 1)
    first = next(k for k, front in enumerate(fronts) if front.later)

    def changed(k: int, **values: Any) -> Elimination:
        return dataclasses.replace(
            good, fronts=(*fronts[:k], dataclasses.replace(fronts[k], **values), *fronts[k + 1 :])
        )

    start, stop = fronts[first].later[0]
    return {
        "an order with a variable twice": dataclasses.replace(good, order=np.zeros_like(good.order)),
        "an order of too few": dataclasses.replace(good, order=good.order[:-1]),
        "another order": dataclasses.replace(good, order=good.order[::-1].copy()),
        "a front that is missing": dataclasses.replace(good, fronts=fronts[:-1]),
        "the first one missing": dataclasses.replace(good, fronts=fronts[1:]),
        "no fronts": dataclasses.replace(good, fronts=()),
        "fronts in another order": dataclasses.replace(good, fronts=fronts[::-1]),
        "a child too few": changed(parent, children=fronts[parent].children[1:]),
        "no children": changed(parent, children=()),
        "a child too many": changed(parent, children=(*fronts[parent].children, parent - 1, parent - 1)),
        "a child of its own": changed(parent, children=(parent,)),
        "the wrong side": changed(parent, side=1 - fronts[parent].side),
        "a front that knows too little": changed(first, later=()),
        "a front that knows one twice": changed(first, later=((start, stop), *fronts[first].later)),
        "a front that knows others": changed(first, later=((start + 1, stop + 1), *fronts[first].later[1:])),
        "a front beyond the end": changed(first, later=((10**6, 10**6 + 1),)),
        "stacks that are too small": dataclasses.replace(good, stacks=(0, 0)),
    }


def test_orders_that_do_not_fit_are_errors(several: tuple[Any, Array, Elimination]) -> None:
    lower, diagonal, good = several
    assert factors(lower, diagonal, good)
    for name, order in malformed(good).items():
        with pytest.raises(ValueError, match=r"eliminate|elimination|front|tree"):
            pytest.fail(f"{name}: {factors(lower, diagonal, order)}")


def test_an_order_for_another_pattern_is_an_error() -> None:
    A = grid(6, 6)
    order = elimination_for(sp.csr_array((36, 36)))  # nothing meets
    with pytest.raises(ValueError, match="outside of its front"):
        factors(*shifted(A, 1.0), order)


def test_a_device_that_fails_costs_time_only(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(multifrontal, "serves", lambda elimination, device: True)
    A = grid(5, 6)
    for smallest in (1e-8, -1e-8):
        verdict = factors(*shifted(A, smallest), elimination_for(A), device="meta")
        assert verdict == (smallest > 0)
    assert "is done on the CPU" in caplog.text


def test_only_true_double_precision_that_fits_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    order = elimination_for(grid(5, 6))
    assert not multifrontal.serves(order, torch.device("mps"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * order.bytes, 10**12))
    assert multifrontal.serves(order, torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (order.bytes, 10**12))
    assert not multifrontal.serves(order, torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * order.bytes, 10**12))
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "1")
    assert not multifrontal.serves(order, torch.device("cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("size", [6, 40])
def test_a_gpu_agrees_with_the_cpu(size: int) -> None:
    A = grid(size, size + 1)
    order = elimination_for(A)
    for smallest in (1e-8, -1e-8):
        assert factors(*shifted(A, smallest), order, device="cuda") == factors(*shifted(A, smallest), order)
