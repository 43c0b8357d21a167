"""Tiles cover the output grid once, and their patches hold all inputs that they depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.dependence import dependence
from helpers.networks import Sample, convolutional, with_weights
from helpers.tiles import entries, members
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from lipguard.proposing.conic.problem import Problem
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.tiling import Tiling, is_tileable, lmi_sizes
from lipguard.trusted.reading.trace import trace

TILES = st.tuples(st.integers(1, 4), st.integers(1, 4))


def tiled(sample: Sample, tile: tuple[int, int]) -> Tiling:
    network = trace(sample.model, sample.input_shape)
    assume(is_tileable(network))
    rows, columns = network.output_shape[1:]
    return Tiling(network, (min(tile[0], rows), min(tile[1], columns)))


def outputs_of(network: Network, tiling: Tiling) -> list[list[int]]:
    """Flat output entries of every tile."""
    grid = np.arange(math.prod(network.output_shape)).reshape(network.output_shape)
    return [grid[:, i : i + shape.size[0], j : j + shape.size[1]].ravel().tolist() for shape, (i, j) in members(tiling)]


@given(convolutional(), TILES)
def test_every_output_is_in_one_tile(sample: Sample, tile: tuple[int, int]) -> None:
    tiling = tiled(sample, tile)
    network = tiling.network
    found = [entry for outputs in outputs_of(network, tiling) for entry in outputs]
    assert sorted(found) == list(range(math.prod(network.output_shape)))
    assert tiling.count == len(members(tiling)) == math.prod(
        math.ceil(n / size) for n, size in zip(network.output_shape[1:], tiling.tile, strict=True)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tile", "sizes"),
    [
        ((2, 4), {(2, 4): 2, (2, 3): 2, (1, 4): 1, (1, 3): 1}),
        ((5, 7), {(5, 7): 1}),
        ((1, 1), {(1, 1): 35}),
        ((5, 2), {(5, 2): 3, (5, 1): 1}),
        ((4, 7), {(4, 7): 1, (1, 7): 1}),
    ],
)
def test_tiles_that_do_not_divide_the_grid(tile: tuple[int, int], sizes: dict[tuple[int, int], int]) -> None:
    network = trace(with_weights(nn.Conv2d(1, 2, 3, padding=1), 0), (1, 5, 7))
    tiling = Tiling(network, tile)
    assert {shape.size: len(shape.origins) for shape in tiling.shapes} == sizes
    assert [shape.boxes[-1] for shape in tiling.shapes] == [((0, rows), (0, columns)) for rows, columns in sizes]


@given(convolutional(), TILES)
def test_a_patch_holds_every_input_that_its_tile_depends_on(sample: Sample, tile: tuple[int, int]) -> None:
    tiling = tiled(sample, tile)
    depends = dependence(sample)
    for (shape, origin), outputs in zip(members(tiling), outputs_of(tiling.network, tiling), strict=True):
        local, absolute = tiling.input_entries(shape, origin)
        assert set(np.flatnonzero(depends[outputs].any(axis=0))) <= set(absolute.tolist())
        assert list(zip(local.tolist(), absolute.tolist(), strict=True)) == entries(tiling.network, shape, origin, 0)


@given(convolutional(compact=True), TILES)
def test_a_patch_is_the_smallest_box_for_all_tiles_of_its_size(sample: Sample, tile: tuple[int, int]) -> None:
    tiling = tiled(sample, tile)
    network = tiling.network
    depends = dependence(sample)
    assume(depends.any(axis=1).all())  # a tile of padding alone has an arbitrary patch
    outputs = dict(zip(members(tiling), outputs_of(network, tiling), strict=True))
    for shape in tiling.shapes:
        read: list[tuple[int, int]] = []  # positions, relative to the patch
        for origin in shape.origins:
            depended = set(np.flatnonzero(depends[outputs[shape, origin]].any(axis=0)))
            (top, bottom), (left, right) = shape.boxes[0]
            for local, absolute in entries(network, shape, origin, 0):
                if absolute in depended:
                    read.append((local // (right - left) % (bottom - top), local % (right - left)))
        rows, columns = (sorted({position[axis] for position in read}) for axis in (0, 1))
        assert (rows[0], rows[-1] + 1) == (0, bottom - top)
        assert (columns[0], columns[-1] + 1) == (0, right - left)


@given(convolutional(), TILES)
def test_lmi_sizes_are_those_of_the_matrices(sample: Sample, tile: tuple[int, int]) -> None:
    tiling = tiled(sample, tile)
    for shape in tiling.shapes:
        network = tiling.shape_network(shape)
        freed = FreedNetwork.assemble(network)
        assert shape.variables == freed.n_x + freed.neurons
        assert (shape.variables, shape.compressed) == lmi_sizes(network, [node.size for node in network.nodes])
        rows = np.vstack([freed.K[:, : freed.n_x], freed.Y[:, : freed.n_x]])
        assert np.linalg.matrix_rank(rows) + freed.neurons <= shape.compressed <= shape.variables


def test_the_solver_sees_the_compressed_size() -> None:
    model = with_weights(nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 2)), 0)
    tiling = Tiling(trace(model, (2, 9, 9)), (2, 2))
    (shape,) = tiling.shapes
    network = tiling.shape_network(shape)
    problem = Problem.build(network, FreedNetwork.assemble(network), [1.0] * len(network.nodes))
    assert shape.variables == 2 * 5 * 5 + 2 * 3 * 3  # the patch and the hidden positions of a 2x2 tile
    assert shape.compressed == 2 * (2 * 3 * 3) == problem.size


def test_shapes_of_every_node_of_a_tile_network_are_those_it_computes() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 2, dilation=2, padding=1), nn.Tanh())
    tiling = Tiling(trace(with_weights(model, 0), (1, 8, 11)), (2, 3))
    for shape in tiling.shapes:
        network = tiling.shape_network(shape)
        x = Sample(model, network.input_shape).inputs(2)

        def step(i: int, inputs: tuple, network: Network = network) -> object:  # type: ignore[type-arg]
            value = network.nodes[i].layer.forward(*inputs)
            assert tuple(value.shape[1:]) == network.nodes[i].shape
            return value

        assert tuple(network.run(x, step).shape[2:]) == shape.size  # type: ignore[arg-type]
