"""Pairs that are put in order: read with one neuron for both, no longer than they were, and found in a network."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.forward import Forward
from helpers.sandwich import assert_sandwich
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import lipguard
from lipguard import Box
from lipguard.certifying.hints import HINTS
from lipguard.trusted import layers
from lipguard.trusted.layers import Add, Pick, Scale
from lipguard.trusted.network.exchanging import exchanged_at
from lipguard.trusted.network.graph import Network, Node
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.norms.product import product_bounds
from lipguard.trusted.reading.sorting import stages
from lipguard.trusted.reading.table import TABLE
from lipguard.trusted.reading.trace import trace
from lipguard.trusted.regions.intervals import intervals

Call = Callable[[Any, Any], Any]


def _halves(m: Any, x: Any) -> Any:
    a, b = x.chunk(2, 1)
    return torch.cat([torch.maximum(a, b), torch.minimum(b, a)], 1)


def _pairs(m: Any, x: Any) -> Any:
    return torch.stack([torch.max(x[:, ::2], x[:, 1::2]), torch.min(x[:, ::2], x[:, 1::2])], 2).flatten(1)


def _by_axis(m: Any, x: Any) -> Any:
    y = x.view(len(x), -1, 2)
    return torch.cat([y.amin(2, keepdim=True), y.max(2, keepdim=True)[0]], 2).view(x.shape)


def _as_the_papers_write_it(m: Any, x: Any) -> Any:
    size = [len(x), 4, x.shape[1] // 4]
    return torch.cat([x.view(*size).max(2)[0], x.view(*size).min(2)[0]], 1)


def _sorted(m: Any, x: Any) -> Any:
    return x.reshape(len(x), -1, 4).sort(2, descending=True).values.reshape(x.shape)


MAX_MIN: dict[str, Call] = {
    "halves": _halves, "pairs": _pairs, "an axis": _by_axis, "as the papers write it": _as_the_papers_write_it,
    "sorted": _sorted,
}  # fmt: skip


def orthogonal(call: Call) -> nn.Module:
    torch.manual_seed(0)
    first, last = (parametrizations.orthogonal(nn.Linear(8, 8)) for _ in range(2))
    return nn.Sequential(first, Forward(call), last).eval()


@pytest.mark.parametrize("layout", MAX_MIN)
def test_between_orthogonal_layers_the_bound_is_one_and_so_is_the_product(layout: str) -> None:
    report = lipguard.certify(orthogonal(MAX_MIN[layout]), (8,))
    assert 1 - 1e-6 <= report.bound <= report.product_bound <= 1 + 1e-5


@pytest.mark.parametrize("layout", MAX_MIN)
def test_one_neuron_makes_both_entries_of_a_pair(layout: str) -> None:
    network = trace(orthogonal(MAX_MIN[layout]), (8,))
    assert network.neurons == (2 * 5 if layout == "sorted" else 4)


def test_sums_are_kept_which_the_group_constraint_forgets() -> None:
    class Registered(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return _pairs(self, x)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    first, last = nn.Linear(3, 6).double(), nn.Linear(6, 1).double()
    last.weight.data.abs_()  # it reads sums more than differences
    lipguard.register(Registered, group=2)
    try:
        group = lipguard.certify(nn.Sequential(first, Registered(), last), (3,)).bound
    finally:
        del TABLE.own[Registered]
    assert assert_sandwich(nn.Sequential(first, Forward(_pairs), last), (3,)).bound < 0.98 * group


def test_entries_in_two_pairs_are_compared_and_not_exchanged() -> None:
    model = Forward(lambda m, x: torch.maximum(x[:, 1:], x[:, :-1]) + torch.minimum(x[:, :-1], x[:, 1:]))
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(trace(model, (4,)).forward(x), model(x))
    assert_sandwich(model, (4,))


def test_a_long_sort_is_known_by_its_length_only() -> None:
    model = Forward(lambda m, x: x.sort(1, descending=True)[0])
    network = trace(model, (600,))
    assert [network.nodes[i].layer.group for i in network.activations] == [600]  # type: ignore[attr-defined]
    x = torch.randn(3, 600, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(network.forward(x), x.sort(1, descending=True)[0])
    assert product(network) <= 1 + 1e-12


@pytest.mark.parametrize("n", range(1, 20))
def test_stages_put_everything_in_order(n: int) -> None:
    """By the principle of zeros and ones, for up to 12 entries; beyond, on samples."""
    pairs = list(stages(n))
    assert all(len({i for pair in stage for i in pair}) == 2 * len(stage) for stage in pairs)
    if n <= 12:
        x = torch.tensor(list(itertools.product((0.0, 1.0), repeat=n))).reshape(-1, n)
    else:
        x = torch.randn(1000, n, generator=torch.Generator().manual_seed(n))
    found = x.clone()
    for i, j in itertools.chain.from_iterable(pairs):
        found[:, [i, j]] = torch.stack([found[:, [i, j]].amin(1), found[:, [i, j]].amax(1)], 1)
    assert torch.equal(found, x.sort(1).values)


def exchange(
    first: tuple[int, ...] = (0, 3), second: tuple[int, ...] = (2, 1), sign: tuple[float, ...] = (-1, 1, 1, -1, 0),
    source: tuple[int, ...] = (0, 1, 0, 1, -1), turned: float = -1.0, shift: float | None = None,
) -> Network:  # fmt: skip
    """Entries 0 and 2 in order, and 3 and 1, of five; or something like it."""
    size = (len(first),)
    nodes: list[tuple[layers.Layer, tuple[int, ...], tuple[int, ...]]] = [
        (layers.Input(), (), (5,)),
        (Pick(torch.tensor(first)), (0,), size),
        (Pick(torch.tensor(second)), (0,), size),
        (Scale(torch.tensor([turned]).double(), None if shift is None else torch.tensor([shift])), (2,), size),
        (Add(), (1, 3), size),
        (layers.relu(), (4,), size),
        (Pick(torch.tensor(source)), (5,), (5,)),
        (Scale(torch.tensor(sign).double()), (6,), (5,)),
        (Add(), (0, 7), (5,)),
    ]
    return Network(tuple(Node(str(k), layer, inputs, shape) for k, (layer, inputs, shape) in enumerate(nodes)))


def product(network: Network) -> float:
    return product_bounds(network, node_norms(network, HINTS))[-1]


def test_an_exchange_is_found_and_is_no_longer() -> None:
    network = exchange()
    found = exchanged_at(network, 8)
    assert found is not None
    assert (found.source, found.excess) == (0, 5)
    assert (found.first.tolist(), found.second.tolist()) == ([0, 3], [2, 1])
    assert product(network) <= 1 + 1e-12
    assert all(exchanged_at(network, i) is None for i in range(8))


ALTERED: dict[str, dict[str, Any]] = {
    "both the larger one": {"sign": (1, 1, 1, -1, 0)},
    "out of order": {"sign": (1, -1, 1, -1, 0)},
    "twice the difference": {"sign": (-2, 1, 1, -1, 0)},
    "another pair's": {"source": (1, 0, 0, 1, -1)},
    "in a place of its own": {"sign": (-1, 1, 1, -1, 1), "source": (0, 1, 0, 1, 0)},
    "one entry in two pairs": {"second": (2, 2), "sign": (-1, 0, 1, -1, 0), "source": (0, -1, 1, 1, -1)},
    "a sum": {"turned": 1.0},
    "a zero": {"first": (0, -1), "sign": (-1, 1, 1, 0, -1), "source": (0, 1, 0, -1, 1)},
    "shifted": {"shift": 1.0},
}


@pytest.mark.parametrize("case", ALTERED)
def test_what_only_looks_like_an_exchange_is_none(case: str) -> None:
    network = exchange(**ALTERED[case])
    assert exchanged_at(network, 8) is None
    assert product(network) > 1


@pytest.mark.parametrize("bent", [layers.absolute(), layers.leaky_relu(1.5), layers.leaky_relu(-0.1)])
def test_other_slopes_than_those_between_zero_and_one_make_none(bent: layers.Activation) -> None:
    nodes = list(exchange().nodes)
    nodes[5] = dataclasses.replace(nodes[5], layer=bent)
    assert exchanged_at(Network(tuple(nodes)), 8) is None


def test_weights_that_are_rounded_make_none() -> None:
    nodes = list(exchange().nodes)
    for k in (3, 7):
        layer = nodes[k].layer
        assert isinstance(layer, Scale)
        altered = [*nodes[:k], dataclasses.replace(nodes[k], layer=dataclasses.replace(layer, weight_ulps=1))]
        assert exchanged_at(Network((*altered, *nodes[k + 1 :])), 8) is None


@pytest.mark.parametrize("bent", [layers.relu(), layers.tanh()])
def test_intervals_hold_what_is_in_order(bent: layers.Activation) -> None:
    """As tight as the smaller and the larger of both ends, where it is the ReLU; with another function, right."""
    nodes = list(exchange().nodes)
    nodes[5] = dataclasses.replace(nodes[5], layer=bent)
    network = Network((*nodes, Node("end", layers.relu(), (8,), (5,))))
    low, high = torch.tensor([-1.0, 0.0, 0.5, 2.0, 0.0]).double(), torch.tensor([1.0, 3.0, 0.75, 2.5, 0.0]).double()
    found = intervals(network, Box(low, high), node_norms(network, HINTS))[9]
    x = low + (high - low) * torch.rand(2000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = Network(tuple(nodes)).forward(x)
    assert bool(((found[0] <= y) & (y <= found[1])).all())
    if bent.function is torch.relu:
        expected: list[Tensor] = [torch.tensor([-1.0, 2.0, 0.5, 0.0, 0.0]), torch.tensor([0.75, 3.0, 1.0, 2.5, 0.0])]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other.double(), rtol=0, atol=1e-6)
