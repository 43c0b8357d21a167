"""The pattern of groups of variables covers that of the matrices that are factored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from helpers.layers import convolutions
from helpers.networks import ACTIVATIONS, Residual, Sample, Twice, networks, with_weights
from hypothesis import given
from torch import nn

from lipguard.planning.orders import sites
from lipguard.planning.orders.sites import SiteGraph, gram_site_graph, layer_site_graph, site_graph
from lipguard.trusted.layers import Conv2d
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs import sparse
from lipguard.trusted.reading.trace import trace

GRIDS = [(8000, 256), (40, 5), (1, 10**6)]  # sites at most, entries of a flat site: as they are, coarse, coarsest


def assert_covers(graph: SiteGraph, A: Any) -> None:
    """Every entry of a symmetric matrix is within a site, or between two that meet."""
    assert len(graph.site) == A.shape[0]
    assert graph.sizes.sum() == A.shape[0]
    assert (graph.sizes > 0).all()
    meets = graph.meets.toarray() != 0
    assert np.array_equal(meets, meets.T)
    assert not meets.diagonal().any()
    entries = sp.coo_array(A)
    one, other = graph.site[entries.row], graph.site[entries.col]
    assert (meets[one, other] | (one == other) | (entries.data == 0)).all()


def factored(network: Network) -> Any:
    """The matrix that a proof of the network factors, below its diagonal."""
    assembled = sparse._assembled(ScaledForm(network, np.ones(network.neurons), 1.0))
    assert assembled is not None
    return assembled[0]


@pytest.fixture(params=GRIDS, ids=str)
def grid(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "_MOST_SITES", request.param[0])
    monkeypatch.setattr(sites, "_FLAT", request.param[1])


@given(networks())
def test_networks_of_all_kinds(sample: Sample) -> None:
    network = trace(sample.model, sample.input_shape)
    lower = factored(network)
    for most, flat in GRIDS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sites, "_MOST_SITES", most)
            patch.setattr(sites, "_FLAT", flat)
            assert_covers(site_graph(network), lower)


@given(convolutions())
def test_convolutions_of_every_geometry(case: tuple[Conv2d, tuple[int, ...]]) -> None:
    layer, shape = case
    output = tuple(layer.linear(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
    W = layer.matrix(shape, output)
    own = sp.block_array([[None, W.T], [W, None]], format="csr")
    gram = W @ W.T if W.shape[0] <= W.shape[1] else W.T @ W
    for most, _ in GRIDS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sites, "_MOST_SITES", most)
            assert_covers(layer_site_graph(layer, shape, output), own)
            assert_covers(gram_site_graph(layer, shape, output), gram)


def strided(activation: nn.Module) -> tuple[nn.Module, tuple[int, ...]]:
    layers = [nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), groups=2), activation, nn.BatchNorm2d(4)]
    layers += [nn.Conv2d(4, 3, 3, dilation=2, padding=2), activation, nn.AvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(3 * 2 * 3, 5), activation, nn.Linear(5, 2)), (2, 8, 7)


def branched(activation: nn.Module) -> tuple[nn.Module, tuple[int, ...]]:
    body = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), activation, nn.Conv2d(3, 2, 1))
    reused = Twice(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), activation))
    return nn.Sequential(Residual(body, nn.Identity()), reused, nn.ZeroPad2d((1, 0, 2, 1)), nn.Flatten()), (2, 5, 4)


def pointlike(activation: nn.Module) -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Conv2d(3, 2, 1), activation, nn.Flatten(), nn.Linear(2, 1)), (3, 1, 1)


@pytest.mark.usefixtures("grid")
@pytest.mark.parametrize("build", [strided, branched, pointlike])
@pytest.mark.parametrize("activation", [make() for make in ACTIVATIONS], ids=str)
def test_slopes_of_every_sign(build: Any, activation: nn.Module) -> None:
    model, shape = build(activation)
    network = trace(with_weights(model, 0), shape)
    assert_covers(site_graph(network), factored(network))


@pytest.mark.usefixtures("grid")
def test_without_activations() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    network = trace(with_weights(model, 0), (1, 4, 4))
    assert_covers(site_graph(network), factored(network))


def test_channels_of_a_pixel_are_one_site_until_there_are_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    network = trace(with_weights(model, 0), (1, 8, 6))
    fine = site_graph(network)
    assert sorted(set(fine.sizes.tolist())) == [1, 2, 4]
    assert len(fine.sizes) == 3 * 48
    monkeypatch.setattr(sites, "_MOST_SITES", 100)
    coarse = site_graph(network)
    assert len(coarse.sizes) <= 100
    assert coarse.sizes.sum() == fine.sizes.sum()


def test_sites_have_places_amid_what_they_read() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 3, stride=2), nn.ReLU(), nn.Flatten())
    graph = site_graph(trace(nn.Sequential(model, nn.Linear(4, 3)), (1, 7, 7)))
    assert graph.place is not None
    pixel = np.indices((7, 7)).reshape(2, -1).T
    assert np.allclose(graph.place[:49] * 7, pixel)
    assert np.allclose(graph.place[49:74] * 7, np.indices((5, 5)).reshape(2, -1).T + 1)
    assert np.allclose(graph.place[74:78] * 7, 2 * np.indices((2, 2)).reshape(2, -1).T + 2)
    assert np.allclose(graph.place[78:] * 7, 3)  # what reads all of it is in the middle
    assert site_graph(trace(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (4,))).place is None


def test_sites_of_norms_have_places() -> None:
    layer = Conv2d(torch.ones(2, 1, 3, 3, dtype=torch.float64))
    own, gram = layer_site_graph(layer, (1, 5, 6), (2, 3, 4)), gram_site_graph(layer, (1, 5, 6), (2, 3, 4))
    assert own.place is not None
    assert gram.place is not None
    assert len(own.place) == 30 + 12
    assert np.allclose(own.place[30] * (5, 6), (1, 1))
    assert len(gram.place) == len(gram.sizes) == 12


class Joined(nn.Module):
    """Channels behind channels, as in a DenseNet."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 + 2 * k, 2, 3, padding=1) for k in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = torch.cat([x, conv(torch.relu(x))], 1)
        return x


def test_joined_channels_meet_only_what_is_near(grid: None) -> None:
    network = trace(Joined(2).eval(), (3, 6, 7))
    assert_covers(site_graph(network), factored(network))


def test_joined_channels_leave_the_pattern_sparse() -> None:
    graph = site_graph(trace(Joined(3).eval(), (3, 24, 24)))
    assert graph.meets.nnz < 100 * graph.meets.shape[0] < graph.meets.shape[0] ** 2 / 10


def test_a_search_that_is_called_off_ends() -> None:
    def off() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        site_graph(trace(Joined(1).eval(), (3, 6, 7)), off)
