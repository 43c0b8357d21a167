"""A proof that fails is not the end: others are tried, and what is left at last says why."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import nn

import lipguard
from lipguard import DCPConfig
from lipguard.certifying.attempts import others
from lipguard.planning.prices.price import Price
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs import kinds, sparse
from lipguard.trusted.proofs.claim import Claim, Means
from lipguard.trusted.reading.trace import trace


def leaky(*sizes: int) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i, pair in enumerate(itertools.pairwise(sizes)):
        layers += [nn.LeakyReLU(0.2)] * (i > 0) + [nn.Linear(*pair)]
    return nn.Sequential(*layers).eval()


def image() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 2, 2)).eval()


def refusing(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def refuse(claim: Claim, network: Network, means: Means) -> bool:
        return False

    checks: Mapping[str, kinds.Check] = {
        name: dataclasses.replace(check, holds=refuse) if name in names else check
        for name, check in kinds.CHECKS.items()
    }
    monkeypatch.setattr(kinds, "CHECKS", checks)


@pytest.mark.parametrize(("refused", "kind"), [(["sparse"], "dense"), (["sparse", "dense"], "randomised")])
def test_the_next_kind_takes_the_place_of_one_that_fails(
    refused: list[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = lipguard.certify(image(), (1, 30, 30)).bound
    refusing(monkeypatch, *refused)
    report = lipguard.certify(image(), (1, 30, 30))
    assert report.proof == kind == report.plan.blocks[0].proof
    assert report.lower_bound <= right * (1 + 1e-9)
    assert report.bound == pytest.approx(right, rel=5e-3)
    assert report.status == "complete"
    (row,) = report.details()
    assert row["status"] == f"solved; no {' nor '.join(refused)} proof"
    assert lipguard.verify(report.certificate, image()) == report.bound
    again = lipguard.certify(image(), (1, 30, 30), warm_start=report)  # which begins with what held
    assert (again.proof, again.status) == (kind, "complete")
    assert again.plan == report.plan


def test_the_product_is_the_last_resort_and_says_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, "dense", "sparse", "randomised")
    report = lipguard.certify(image(), (1, 30, 30))
    assert (report.bound, report.proof) == (report.product_bound, "product")
    assert report.status == "fallback: block 0: solved; no sparse nor dense nor randomised proof"


@pytest.mark.parametrize(("price", "words"), [
    (lambda kind: Price(kind, 1e6, 1e3), "a dense one would take 1000000 s"),
    (lambda kind: Price(kind, 1.0, 1e30), "a dense one would take"),
])  # fmt: skip
def test_what_does_not_fit_is_not_tried_and_named(
    price: Callable[[str], Price], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, "sparse")
    monkeypatch.setattr(others, "price_of", lambda kind, *_: price(kind))
    report = lipguard.certify(image(), (1, 30, 30), DCPConfig(failure_probability=0))
    assert report.bound == report.product_bound
    assert report.status.startswith(f"fallback: block 0: solved; no sparse proof, {words}")


def test_a_kind_that_was_asked_for_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, "sparse")
    report = lipguard.certify(image(), (1, 30, 30), DCPConfig(proof="sparse"))
    assert report.status == "fallback: block 0: solved; no proof"


def test_wide_layers_whose_slopes_do_not_reach_zero_are_proved_sparsely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their matrix is full; written out, it proves what it proves entry by entry."""
    model = leaky(40, 30, 20, 2)
    config = DCPConfig(proof="sparse")
    plain = lipguard.certify(model, (40,), config)
    monkeypatch.setattr(sparse, "_MOST_PRODUCTS", 0.0)
    full = lipguard.certify(model, (40,), config)
    assert full.proof == "sparse"
    assert full.bound == pytest.approx(plain.bound, rel=1e-5)
    assert full.lower_bound <= full.bound < full.product_bound
    assert lipguard.verify(full.certificate, model) == full.bound
    monkeypatch.setattr(sparse, "_MOST_COLUMNS", 10)
    assert lipguard.certify(model, (40,), config).bound == full.product_bound


def test_written_out_rows_couple_what_they_did_entry_by_entry() -> None:
    network = trace(leaky(9, 8, 7, 2), (9,))
    report = lipguard.certify(leaky(9, 8, 7, 2), (9,), DCPConfig(proof="dense"))
    (t,) = report.certificate.multipliers[0]
    form = sparse.ScaledForm(network, t, report.bound**2)
    found = sparse._assembled(form)
    assert found is not None
    before, most = found[0].toarray(), sparse._MOST_PRODUCTS
    try:
        sparse._MOST_PRODUCTS = 0.0
        again = sparse._assembled(form)
    finally:
        sparse._MOST_PRODUCTS = most
    assert again is not None
    assert torch.allclose(torch.from_numpy(again[0].toarray()), torch.from_numpy(before), rtol=1e-12, atol=1e-13)
    assert again[0].nnz == found[0].nnz


@pytest.mark.slow
def test_a_wide_network_of_leaky_slopes_is_proved_far_below_its_product() -> None:
    report = lipguard.certify(leaky(784, 512, 256, 1), (784,), DCPConfig(max_seconds=60))
    assert report.bound < 0.5 * report.product_bound
    assert report.status == "complete"


def test_columns_that_no_row_reads_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "_MOST_PRODUCTS", 0.0)
    W = np.array([[1.0, 0.0, 2.0, 0.0, 3.0], [0.0, 0.0, 4.0, 0.0, 5.0]])
    found = sparse._weighted_gram(sp.csr_array(W), np.array([2.0, 3.0]))
    assert np.array_equal(found.toarray(), W.T @ np.diag([2.0, 3.0]) @ W)
