"""The certificate of a tile shape holds for each of its members.

A member is the shape's network with variables set to zero: those of positions outside the grid, and those that
the tile does not compute or use as the network does (its outputs must not depend on them). With S at the
input, `S + form of the shape >= 0` gives the same for the member if, for all multipliers, the member's own form lies
above the shape's on the variables that are left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from helpers.networks import Residual, Sample, convolutional, with_weights
from helpers.tiles import entries, needed, variables
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.network.tiling import TileShape, Tiling, is_tileable
from lipguard.trusted.reading.trace import trace

Array = NDArray[np.float64]


class Member:
    """One tile: its variables and outputs in the shape's matrices and in the whole network's, as (local, absolute)."""

    def __init__(
        self, tiling: Tiling, shape: TileShape, origin: tuple[int, int], own: FreedNetwork, whole: FreedNetwork
    ) -> None:
        self.own, self.whole = own, whole
        self.outputs = entries(tiling.network, shape, origin, len(tiling.network.nodes) - 1)
        self.needed = needed(whole, [b for _, b in self.outputs])
        on_grid = variables(tiling.network, shape, origin)
        used = needed(own, [a for a, _ in self.outputs], {a for a, _ in on_grid})
        self.variables = [(a, b) for a, b in on_grid if b < whole.n_x or b in self.needed or a not in used]
        before = None
        while before != self.variables:  # without the neurons that read something that is not here
            before = self.variables
            self.variables = [(a, b) for a, b in before if b < whole.n_x or self._agrees(a - own.n_x, b - whole.n_x)]

    def _agrees(self, local: int, absolute: int) -> bool:
        expected = np.zeros(self.whole.K.shape[1])
        expected[self.absolute] = self.own.K[local, self.local]
        return np.allclose(self.whole.K[absolute], expected, rtol=0, atol=1e-11 * max(1.0, np.abs(expected).max()))

    @property
    def local(self) -> list[int]:
        return [a for a, _ in self.variables]

    @property
    def absolute(self) -> list[int]:
        return [b for _, b in self.variables]

    def assert_computes_its_outputs(self) -> None:
        rows, whole_rows = [a for a, _ in self.outputs], [b for _, b in self.outputs]
        missing = self.needed - set(self.absolute)
        assert not missing, (
            f"the tile's outputs depend on {missing}, which are not here or not computed as in the network"
        )
        found, expected = self.own.Y[np.ix_(rows, self.local)], self.whole.Y[np.ix_(whole_rows, self.absolute)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * max(1.0, np.abs(expected).max(initial=0)))

    def assert_form_lies_above(self, t: Array) -> None:
        own, whole = self.own, self.whole
        neurons = [(a - own.n_x, b - whole.n_x) for a, b in self.variables if b >= whole.n_x]
        local, absolute = [a for a, _ in neurons], [b for _, b in neurons]
        assert (own.alpha[local] <= whole.alpha[absolute]).all()  # a wider range of slopes holds as well
        assert (own.beta[local] >= whole.beta[absolute]).all()
        t_whole, alpha, beta = np.zeros(whole.neurons), whole.alpha.copy(), whole.beta.copy()
        t_whole[absolute], alpha[absolute], beta[absolute] = t[local], own.alpha[local], own.beta[local]
        Y = whole.Y[[b for _, b in self.outputs]]
        mine = dataclasses.replace(whole, Y=Y, alpha=alpha, beta=beta).quadratic(t_whole)
        difference = mine[np.ix_(self.absolute, self.absolute)] - own.quadratic(t)[np.ix_(self.local, self.local)]
        size = own.quadratic_abs(t).max(initial=1.0)
        assert np.linalg.eigvalsh(difference).min(initial=0.0) >= -1e-10 * size


def assert_members_are_covered(tiling: Tiling) -> None:
    whole = FreedNetwork.assemble(tiling.network)
    for shape in tiling.shapes:
        own = FreedNetwork.assemble(tiling.shape_network(shape))
        for origin in shape.origins:
            member = Member(tiling, shape, origin, own, whole)
            member.assert_computes_its_outputs()
            for seed in range(3):
                member.assert_form_lies_above(np.random.default_rng(seed).exponential(size=own.neurons) ** 3)


@given(convolutional(largest=6), st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_members_of_random_networks_are_covered_by_their_shape(sample: Sample, tile: tuple[int, int]) -> None:
    network = trace(sample.model, sample.input_shape)
    assume(is_tileable(network))
    rows, columns = network.output_shape[1:]
    assert_members_are_covered(Tiling(network, (min(tile[0], rows), min(tile[1], columns))))


def chain(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: with_weights(nn.Sequential(*layers), 0)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutions with activations between": chain(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, 1, 2, dilation=2), nn.Tanh(), nn.Conv2d(2, 1, 2)
    ),
    "strides": chain(nn.Conv2d(1, 2, 3, 2, 1), nn.ELU(), nn.Conv2d(2, 2, 3, 2, 1), nn.Sigmoid(), nn.Conv2d(2, 1, 1)),
    "slopes that do not reach zero": chain(nn.Conv2d(1, 2, 2), nn.LeakyReLU(0.9), nn.Conv2d(2, 1, 3, padding=1)),
    "such slopes next to a clipped layer": chain(
        nn.Conv2d(1, 1, 2), nn.LeakyReLU(0.9), nn.Conv2d(1, 1, 3), nn.LeakyReLU(0.9), nn.Conv2d(1, 1, 3, padding=1)
    ),
    "such slopes and holes": chain(nn.Conv2d(1, 2, 2), nn.LeakyReLU(0.9), nn.Conv2d(2, 1, 2, dilation=2)),
    "slopes below zero": chain(nn.Conv2d(1, 2, 2), nn.LeakyReLU(-0.9), nn.Conv2d(2, 1, 3, padding=1)),
    "convolution of a convolution": chain(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1), nn.ReLU()),
    "pooling of a convolution": chain(nn.Conv2d(1, 2, 3), nn.AvgPool2d(3, 1, 1), nn.ReLU(), nn.Conv2d(2, 1, 1)),
    "padding of a convolution": chain(nn.Conv2d(1, 2, 2), nn.ZeroPad2d(1), nn.Conv2d(2, 1, 2), nn.ReLU()),
    "padding of a convolution before it": chain(
        nn.Conv2d(1, 2, 2), nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(2, 1, 2), nn.ReLU()
    ),
    "padding of a convolution behind it": chain(
        nn.Conv2d(1, 2, 2), nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(2, 1, 2), nn.ReLU()
    ),
    "padding of a cropped input": chain(nn.ZeroPad2d(-1), nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()),
    "padding of cropped activations": chain(nn.ReLU(), nn.ZeroPad2d(-1), nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()),
    "padding where pooling leaves a row over": chain(nn.AvgPool2d(2), nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()),
    "residual block after a convolution": chain(
        nn.Conv2d(1, 2, 3, padding=1),
        Residual(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1)), nn.Identity()),
        nn.ReLU(),
    ),
    "residual block with batch norm": chain(
        nn.ReLU(),
        Residual(nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3, 1, 1)),
                 nn.Conv2d(1, 2, 1, 2)),
        nn.ReLU(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("tile", [(1, 1), (2, 3)])
@pytest.mark.parametrize("name", NETWORKS)
def test_members_are_covered_by_their_shape(name: str, tile: tuple[int, int]) -> None:
    network = trace(NETWORKS[name](), (1, 7, 9))
    if is_tileable(network):
        assert_members_are_covered(Tiling(network, tile))


def test_what_is_commonly_stacked_is_tileable() -> None:
    common = ("convolutions with activations between", "strides", "slopes below zero", "residual block with batch norm")
    for name in common:
        assert is_tileable(trace(NETWORKS[name](), (1, 7, 9))), name


def test_a_tile_of_everything_is_the_network_itself() -> None:
    network = trace(NETWORKS["convolutions with activations between"](), (1, 7, 9))
    tiling = Tiling(network, network.output_shape[1:])  # type: ignore[arg-type]
    (shape,) = tiling.shapes
    own, whole = FreedNetwork.assemble(tiling.shape_network(shape)), FreedNetwork.assemble(network)
    np.testing.assert_array_equal(own.K, whole.K)
    np.testing.assert_array_equal(own.Y, whole.Y)


def test_interior_and_border_tiles_have_one_shape() -> None:
    network = trace(NETWORKS["convolutions with activations between"](), (1, 9, 9))
    tiling = Tiling(network, (2, 2))
    (shape, *rest) = tiling.shapes
    sides = [high - low for low, high in shape.boxes[0]]
    assert sides == [2 + 1 + 4 + 2] * 2  # the receptive field of an interior tile
    assert len(shape.origins) == (network.output_shape[1] // 2) ** 2
    lengths = {len(tiling.input_entries(shape, origin)[0]) for origin in shape.origins}
    assert max(lengths) <= 81
    assert min(lengths) < max(lengths)
    assert len(rest) == (0 if network.output_shape[1] % 2 == 0 else 3)
