"""Pieces in tiles: the same function, and LipSDP's matrix in one small piece per tile."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers.claims import proposed
from helpers.networks import Residual, with_weights
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from lipguard.certifying.hints import HINTS
from lipguard.proposing.power.options import PowerOptions
from lipguard.proposing.power.run import propose
from lipguard.trusted.layers import Mosaic
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.network.cutting import cut_behind, part_of, picked_by, pieces_of
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.unfolding import most_tiles, unfolded
from lipguard.trusted.proofs.sparse import is_form_positive_semidefinite
from lipguard.trusted.reading.trace import trace


def images(kernel: int, stride: int, padding: int, dilation: int, size: tuple[int, int]) -> Network:
    first = nn.Conv2d(2, 3, kernel, stride, padding, dilation)
    layers = [first, nn.BatchNorm2d(3), nn.LeakyReLU(0.1), nn.Conv2d(3, 2, (1, 3), padding=(0, 1)), nn.ReLU()]
    head = [nn.ZeroPad2d((1, 0, 0, 1)), nn.Conv2d(2, 2, 2, groups=2), nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)]
    model = nn.Sequential(*layers, *head)
    model.eval()(torch.zeros(1, 2, *size))
    return trace(with_weights(model, 3), (2, *size))


def small() -> Network:
    return images(3, 1, 1, 1, (6, 5))


def residual() -> Network:
    body = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1))
    layers = [nn.Conv2d(1, 2, 3), nn.ReLU(), Residual(body, nn.Conv2d(2, 2, 1)), nn.ReLU()]
    return trace(with_weights(nn.Sequential(*layers, nn.AvgPool2d(3, 2, 1)), 1), (1, 7, 6))


def dense(form: ScaledForm) -> np.ndarray:
    matrix = form(torch.eye(form.n, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    return np.asarray(matrix)


@st.composite
def tiled(draw: st.DrawFn) -> tuple[Network, Network]:
    """(a network, the same with some pieces in tiles)."""
    if draw(st.booleans()):
        network = residual()
    else:
        kernel, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, 2))
        sides = st.integers(1 + dilation * (kernel - 1), 7)
        network = images(kernel, stride, padding, dilation, (draw(sides), draw(sides)))
    places = [i for i in network.activations if i in network.separators]
    cut = cut_behind(network, draw(st.lists(st.sampled_from(places), unique=True)))
    grids = {}
    for k, nodes in enumerate(pieces_of(cut)):
        rows, columns = most_tiles(part_of(cut, nodes))
        grids[k] = draw(st.integers(1, min(rows, 3))), draw(st.integers(1, min(columns, 3)))
    try:
        return network, unfolded(cut, grids)
    except ValueError as error:
        assume("read padding only" not in str(error))
        raise


@given(tiled())
def test_the_function_is_the_same(pair: tuple[Network, Network]) -> None:
    network, own = pair
    x = torch.randn(4, *network.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(own.forward(x), network.forward(x), rtol=1e-12, atol=1e-12)
    tiles = [node for node in own.nodes if isinstance(node.layer, Mosaic)]
    assert len(pieces_of(own)) > len(tiles)


@given(tiled())
@settings(max_examples=40)
def test_the_form_is_the_sum_of_its_pieces(pair: tuple[Network, Network]) -> None:
    _, own = pair
    rng = np.random.default_rng(0)
    form = ScaledForm(own, rng.uniform(0.5, 2.0, own.neurons), 30.0)
    pieces = form.pieces()
    assert sum(piece.n for piece in pieces) == form.n
    z = torch.from_numpy(rng.standard_normal((3, form.n)))

    def value(one: ScaledForm, w: torch.Tensor) -> torch.Tensor:
        scaled = w / torch.from_numpy(one.scale)
        return (scaled * one(scaled)).sum(1)

    parts = torch.split(z, [piece.n for piece in pieces], dim=1)
    total = sum(value(piece, part) for piece, part in zip(pieces, parts, strict=True))
    assert torch.allclose(total, value(form, z), rtol=1e-9)


@given(tiled())
@settings(max_examples=15)
def test_proofs_of_pieces_agree_with_the_whole_matrix(pair: tuple[Network, Network]) -> None:
    _, own = pair
    t, rho = proposed(own)
    assume(0 < rho < np.inf and (t > 0).all())
    for factor in (1.0, 0.9, 0.5):
        form = ScaledForm(own, t, rho * factor)
        smallest = float(np.linalg.eigvalsh(dense(form))[0])
        if abs(smallest) > 1e-9:
            assert is_form_positive_semidefinite(form, HINTS) == (smallest > 0)


def test_what_it_loses_is_between_nothing_and_the_sum_over_tiles() -> None:
    network = small()
    options = PowerOptions(tolerance=1e-9, max_iterations=2000)
    place = network.activations[1]
    cut = cut_behind(network, [place])
    values = [propose(unfolded(cut, {0: grid}), options).value for grid in ((1, 1), (2, 1), (3, 3), (6, 5))]
    assert all(one <= other * (1 + 1e-6) for one, other in itertools.pairwise(values))
    assert values[-1] < 4 * values[0]


def test_overlapping_copies_of_the_input_must_be_worth_less_than_rho() -> None:
    network = small()
    own = unfolded(cut_behind(network, [network.activations[1]]), {0: (2, 2)})
    t, rho = proposed(own)
    assert is_form_positive_semidefinite(ScaledForm(own, t, rho), HINTS)
    first = [i for i in own.activations if picked_by(own, i)[0] == 0] if own.activations else []
    assert len(first) == 4
    pieces = ScaledForm(own, t, rho).pieces()
    (inputs,) = (piece for piece in pieces if len(piece.network.nodes) == 1)
    most = float(inputs.outward.max())
    assert is_form_positive_semidefinite(ScaledForm(own, t, most), HINTS)
    assert not is_form_positive_semidefinite(ScaledForm(own, t, np.nextafter(most, 0)), HINTS)


def test_sums_of_diagonal_forms_are_rounded_up() -> None:
    network = small()
    own = unfolded(cut_behind(network, [network.activations[1]]), {0: (3, 3)})
    t = np.random.default_rng(0).uniform(0.1, 1.0, own.neurons)
    pieces = ScaledForm(own, t, 9.0).pieces()
    (inputs,) = (piece for piece in pieces if len(piece.network.nodes) == 1)
    starts = np.cumsum([0, *(own.nodes[i].size for i in own.activations)])
    exact = [Fraction(0)] * own.nodes[0].size
    number = torch.arange(own.nodes[0].size, dtype=torch.float64).reshape(1, *own.input_shape)
    for k, i in enumerate(own.activations):
        source, crops = picked_by(own, i)
        if source == 0:
            picked = number
            for crop in crops:
                picked = own.nodes[crop].layer.linear(picked)
            for place, value in zip(picked.ravel().long().tolist(), t[starts[k] : starts[k + 1]], strict=True):
                exact[place] += 2 * Fraction(float(value))
    assert all(Fraction(float(form)) >= true for form, true in zip(inputs.outward, exact, strict=True))
    assert max(float(form) / float(true) for form, true in zip(inputs.outward, exact, strict=True)) < 1 + 1e-14


def test_what_cannot_be_in_tiles() -> None:
    network = small()
    cut = cut_behind(network, [network.activations[2]])
    with pytest.raises(ValueError, match="Expected at most"):
        unfolded(cut, {1: (2, 1)})  # the flattened head
    with pytest.raises(ValueError, match="Expected at most"):
        unfolded(cut, {0: (9, 1)})
    assert most_tiles(part_of(cut, pieces_of(cut)[1])) == (1, 1)
    assert unfolded(cut, {0: (1, 1)}).architecture == cut.architecture


def test_a_tile_that_reads_padding_only_is_refused() -> None:
    network = trace(with_weights(nn.Sequential(nn.Conv2d(1, 1, 1, padding=2), nn.ReLU()), 0), (1, 3, 3))
    with pytest.raises(ValueError, match="read padding only"):
        unfolded(network, {0: (7, 1)})
    assert torch.equal(unfolded(network, {0: (2, 2)}).forward(torch.ones(1, 1, 3, 3).double()),
                       network.forward(torch.ones(1, 1, 3, 3).double()))  # fmt: skip
