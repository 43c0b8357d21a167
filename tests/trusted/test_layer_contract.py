"""What every kind of layer states, in its class or in a table; a kind that does not is refused wherever it is met."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lipguard.certifying.hints import HINTS
from lipguard.planning.machine import CostModel
from lipguard.planning.orders.sites import layer_site_graph
from lipguard.planning.prices import iteration_seconds
from lipguard.trusted import layers
from lipguard.trusted.layers import (
    Activation,
    Add,
    Conv2d,
    Copies,
    Input,
    Layer,
    Linear,
    Mosaic,
    Pad,
    Pick,
    Reshape,
    Scale,
)
from lipguard.trusted.lmi.matrices import layer_matrix
from lipguard.trusted.network.graph import Network, Node
from lipguard.trusted.network.tiling import Tiling, is_tileable, reads, reads_boxes
from lipguard.trusted.network.unfolding import most_tiles
from lipguard.trusted.norms.layers import layer_norm
from lipguard.trusted.regions import intervals, restriction

Shape = tuple[int, ...]
STATED = ("linear", "absolute", "roundings", "adjoint_roundings")


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


IMAGE = (2, 3, 4)
EXAMPLES: dict[type[Layer], tuple[Layer, int, Shape]] = {  # (layer, number of inputs, shape of each)
    Input: (Input(), 1, IMAGE),
    Conv2d: (Conv2d(normal(3, 2, 2, 3), normal(3), padding=(1, 0, 2, -1)), 1, IMAGE),
    Linear: (Linear(normal(5, 4), normal(5)), 1, IMAGE),
    Scale: (Scale(normal(2, 1, 1), normal(2, 1, 1)), 1, IMAGE),
    Pad: (Pad((1, -1, 0, 2)), 1, IMAGE),
    Reshape: (Reshape((4, 6)), 1, IMAGE),
    Pick: (Pick(torch.tensor([[3, 3, -1], [0, 23, 3]])), 1, IMAGE),
    Add: (Add(), 3, IMAGE),
    Mosaic: (Mosaic(2), 4, IMAGE),
    Activation: (layers.leaky_relu(-1.5), 1, IMAGE),
    Copies: (layers.copies(), 1, IMAGE),
}


def classes() -> Iterator[type[Layer]]:
    waiting = list(Layer.__subclasses__())
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if cls.__module__.startswith("lipguard."):
            yield cls


KINDS = sorted(classes(), key=lambda cls: cls.__name__)
AFFINE = [cls for cls in KINDS if not issubclass(cls, Activation)]


def matrices(layer: Layer, inputs: int, shape: Shape) -> list[Tensor]:
    """By which the layer acts on each of its inputs, by unit vectors."""
    units, zeros = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape), torch.zeros(1, *shape).double()
    return [
        layer.linear(*(units if i == k else zeros.expand_as(units) for i in range(inputs))).flatten(1).T
        for k in range(inputs)
    ]


def test_every_kind_has_an_example() -> None:
    assert set(EXAMPLES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_states_what_is_asked_of_it(kind: type[Layer]) -> None:
    assert not inspect.isabstract(kind)
    for name in STATED:
        owner = next(cls for cls in kind.__mro__ if name in vars(cls))
        assert owner is not Layer
        assert owner is kind or kind is Copies


@pytest.mark.parametrize("kind", KINDS)
def test_norms_bound_what_a_layer_does(kind: type[Layer]) -> None:
    layer, inputs, shape = EXAMPLES[kind]
    bound = layer_norm(layer, shape, HINTS)
    if isinstance(layer, Activation):
        assert bound == layer.lipschitz
        return
    for matrix in matrices(layer, inputs, shape):
        exact = float(torch.linalg.matrix_norm(matrix, 2))
        assert exact * (1 - 1e-12) <= bound <= exact * (1 + 1e-9)


@pytest.mark.parametrize("kind", AFFINE)
def test_magnitudes_squares_and_paths_are_those_of_the_matrix(kind: type[Layer]) -> None:
    layer, inputs, shape = EXAMPLES[kind]
    ones, squared = restriction._ones(layer), intervals._squared(layer)
    for k, matrix in enumerate(matrices(layer, inputs, shape)):
        torch.testing.assert_close(matrices(layer.absolute(), inputs, shape)[k], matrix.abs())
        torch.testing.assert_close(matrices(ones, inputs, shape)[k], (matrix != 0).double())
        if squared is not None:
            torch.testing.assert_close(matrices(squared, inputs, shape)[k], matrix.square())
        else:
            assert bool(((matrix == 0) | (matrix == 1)).all())


@pytest.mark.parametrize("kind", AFFINE)
def test_roundings_are_the_terms_of_a_row_and_of_a_column(kind: type[Layer]) -> None:
    """A sum of n products loses n roundings; one term of weight one loses nothing."""
    layer, inputs, shape = EXAMPLES[kind]
    whole = torch.cat(matrices(layer, inputs, shape), 1)
    rows, columns = (int((whole != 0).sum(axis).max()) for axis in (1, 0))
    weighted = bool(((whole != 0) & (whole != 1)).any())
    assert max(layer.roundings(), inputs - 1) >= (rows if weighted else rows - 1)
    assert layer.adjoint_roundings() >= (columns if weighted else columns - 1)


@pytest.mark.parametrize("kind", [cls for cls in AFFINE if cls is not Mosaic])
def test_matrices_and_patterns_are_those_of_the_layer(kind: type[Layer]) -> None:
    layer, inputs, shape = EXAMPLES[kind]
    out = tuple(layer.linear(*(torch.zeros(1, *shape).double() for _ in range(inputs))).shape[1:])
    for matrix in matrices(layer, inputs, shape):
        found = layer_matrix(layer, shape, out)
        torch.testing.assert_close(torch.from_numpy(found.toarray()), matrix)
    graph = layer_site_graph(layer, shape, out)
    n = math.prod(shape)
    row, column = found.nonzero()
    meets = graph.meets.toarray() + torch.eye(graph.meets.shape[0]).numpy()
    assert bool((meets[graph.site[n + row], graph.site[column]] != 0).all())


@dataclasses.dataclass(frozen=True, eq=False)
class Treble(Layer):
    """All that a class has to state, and no row in a table."""

    def linear(self, *inputs: Tensor) -> Tensor:
        return 3 * inputs[0]

    def absolute(self) -> Treble:
        return self

    def roundings(self) -> int:
        return 1

    def adjoint_roundings(self) -> int:
        return 1


NETWORK = Network((Node("input", Input(), (), IMAGE), Node("treble", Treble(), (0,), IMAGE),
                   Node("relu", layers.relu(), (1,), IMAGE)))  # fmt: skip
TABLES: dict[str, Callable[[], Any]] = {
    "norms": lambda: layer_norm(Treble(), IMAGE, HINTS),
    "weights of one": lambda: restriction._ones(Treble()),
    "squared weights": lambda: intervals._squared(Treble()),
    "matrices": lambda: layer_matrix(Treble(), IMAGE, IMAGE),
    "patterns": lambda: layer_site_graph(Treble(), IMAGE, IMAGE),
    "tiles": lambda: reads(Treble(), (0, 1), 0),
    "multiplications": lambda: iteration_seconds(NETWORK, CostModel(1e9, 1e-6)),
}


@pytest.mark.parametrize("table", TABLES)
def test_a_kind_without_a_row_is_refused(table: str) -> None:
    with pytest.raises(NotImplementedError, match=f"Treble has no row in the table of {table}"):
        TABLES[table]()


def test_a_kind_without_a_row_is_not_cut_into_tiles() -> None:
    assert not reads_boxes(Treble())
    assert not is_tileable(NETWORK)
    assert most_tiles(NETWORK) == (1, 1)
    with pytest.raises(NotImplementedError, match="tiles"):
        _ = Tiling(NETWORK, (1, 1)).shapes


@pytest.mark.parametrize("missing", STATED)
def test_a_class_that_does_not_state_all_cannot_be_instantiated(missing: str) -> None:
    stated = {name: vars(Treble)[name] for name in STATED if name != missing}
    with pytest.raises(TypeError, match=missing):
        type("Part", (Layer,), stated)()
    assert type("Whole", (Layer,), stated | {missing: vars(Treble)[missing]})() is not None


@pytest.mark.parametrize("name", [*STATED, "forward"])
def test_a_class_derived_from_a_kind_may_not_change_it(name: str) -> None:
    with pytest.raises(TypeError, match="derive it from Layer"):
        type("Other", (Linear,), {name: lambda self, *inputs: inputs})


def test_a_dense_convolution_of_single_pixels_has_no_pattern_of_its_own() -> None:
    """As many entries out as in, and every one reads every one."""
    shape = (600, 1, 1)
    graph = layer_site_graph(Conv2d(torch.ones(600, 600, 1, 1, dtype=torch.float64)), shape, shape)
    sites = graph.site[:600].max() + 1
    assert sites > 1
    assert graph.meets.toarray()[sites:, :sites].all()
