"""The contract of layers: what every kind states is true of it. A new kind is done when this passes.

Every class of lipguard that is a layer takes part by itself; it needs an example here.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lipguard.certifying.hints import HINTS
from lipguard.planning.orders.sites import layer_site_graph
from lipguard.trusted import layers
from lipguard.trusted.layers import (
    FACTS,
    Activation,
    Add,
    Bilinear,
    Box,
    Conv2d,
    Copies,
    Factor,
    Input,
    Layer,
    Linear,
    Matrix,
    MatrixProduct,
    Mosaic,
    Pad,
    Padding,
    Pick,
    Product,
    Ranged,
    Reshape,
    Scale,
    Weightless,
    identity,
    no_images,
)
from lipguard.trusted.network.boxes import reads
from lipguard.trusted.network.graph import Network, Node
from lipguard.trusted.network.tiling import is_tileable
from lipguard.trusted.norms.layers import crude_norm, layer_norm

Shape = tuple[int, ...]
STATED = (
    "linear", "absolute", "support", "squared", "roundings", "adjoint_roundings", "matrix", "multiplications",
    "windows", "padded", "on_box",
)  # fmt: skip


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


IMAGE = (2, 3, 4)
EXAMPLES: dict[type[Layer], tuple[Layer, int, Shape]] = {  # (layer, number of inputs, shape of each)
    Input: (Input(), 1, IMAGE),
    Conv2d: (Conv2d(normal(3, 2, 2, 3), normal(3), padding=(1, 0, 2, -1), dilation=(2, 1)), 1, IMAGE),
    Linear: (Linear(normal(5, 4), normal(5)), 1, IMAGE),
    Scale: (Scale(normal(2, 3, 4), normal(2, 1, 1)), 1, IMAGE),
    Pad: (Pad((1, -1, 0, 2)), 1, IMAGE),
    Reshape: (Reshape((4, 6)), 1, IMAGE),
    Pick: (Pick(torch.tensor([[3, 3, -1], [0, 23, 3]])), 1, IMAGE),
    Add: (Add(), 3, IMAGE),
    Mosaic: (Mosaic(2), 4, IMAGE),
    Activation: (layers.leaky_relu(-1.5), 1, IMAGE),
    Copies: (layers.copies(), 1, IMAGE),
    Ranged: (layers.sine(), 1, IMAGE),
    Factor: (layers.factor(-1.0, 1.0), 1, IMAGE),
    Product: (Product(), 2, IMAGE),
    MatrixProduct: (MatrixProduct(), 2, (2, 3, 3)),
}


def classes() -> Iterator[type[Layer]]:
    waiting = Layer.__subclasses__()
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if cls.__module__.startswith("lipguard.") and cls not in (Weightless, Bilinear):
            yield cls


KINDS = sorted(classes(), key=lambda cls: cls.__name__)
AFFINE = [cls for cls in KINDS if not issubclass(cls, (Activation, Bilinear))]
PRODUCTS = [cls for cls in KINDS if issubclass(cls, Bilinear)]


@pytest.mark.parametrize("kind", PRODUCTS)
def test_a_product_is_linear_in_each_input_and_has_no_matrix(kind: type[Layer]) -> None:
    layer, _, shape = EXAMPLES[kind]
    assert isinstance(layer, Bilinear)
    a, b, c = (normal(3, *shape)[k : k + 1] for k in range(3))
    torch.testing.assert_close(layer.forward(a + 2 * c, b), layer.forward(a, b) + 2 * layer.forward(c, b))
    torch.testing.assert_close(layer.forward(b, a - c), layer.forward(b, a) - layer.forward(b, c))
    means = layer.at(((a + c) / 2, (b + 3 * c) / 2), (a - c, b - 3 * c))
    torch.testing.assert_close(means, layer.forward(a, b) - layer.forward(c, 3 * c))
    for call in (lambda: layer.linear(a, b), layer.absolute, layer.support, layer.roundings, layer.adjoint_roundings,
                 lambda: layer.matrix(shape, shape)):  # fmt: skip
        with pytest.raises(NotImplementedError, match="has to be bounded on a domain"):
            call()


def test_a_factor_is_never_computed() -> None:
    with pytest.raises(NotImplementedError, match="a pair of inputs"):
        layers.factor(0.0, 1.0).forward(normal(1, 2))


def matrices(layer: Layer, inputs: int, shape: Shape) -> list[Tensor]:
    """By which the layer acts on each of its inputs, by unit vectors."""
    units, zeros = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape), torch.zeros(1, *shape).double()
    return [
        layer.linear(*(units if i == k else zeros.expand_as(units) for i in range(inputs))).flatten(1).T
        for k in range(inputs)
    ]


def test_every_kind_has_an_example() -> None:
    assert set(EXAMPLES) == set(KINDS)
    assert {*STATED, "forward"} == FACTS


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_states_what_is_asked_of_it(kind: type[Layer]) -> None:
    assert not inspect.isabstract(kind)
    for name in STATED:
        owner = next(cls for cls in kind.__mro__ if name in vars(cls))
        assert owner is not Layer
        assert owner in (kind, Weightless, Bilinear) or kind in (Copies, Ranged, Factor)


@pytest.mark.parametrize("kind", KINDS)
def test_norms_bound_what_a_layer_does(kind: type[Layer]) -> None:
    layer, inputs, shape = EXAMPLES[kind]
    bound = layer_norm(layer, shape, HINTS)
    if isinstance(layer, Activation):
        assert bound == layer.lipschitz
        return
    if isinstance(layer, Bilinear):
        assert bound == math.inf
        return
    for matrix in matrices(layer, inputs, shape):
        exact = float(torch.linalg.matrix_norm(matrix, 2))
        assert exact * (1 - 1e-12) <= bound <= exact * (1 + 1e-9)


@pytest.mark.parametrize("kind", AFFINE)
def test_magnitudes_squares_and_paths_are_those_of_the_matrix(kind: type[Layer]) -> None:
    layer, inputs, shape = EXAMPLES[kind]
    ones, squared = layer.support(), layer.squared()
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
        found = layer.matrix(shape, out)
        torch.testing.assert_close(torch.from_numpy(found.toarray()), matrix)
    graph = layer_site_graph(layer, shape, out)
    n = math.prod(shape)
    row, column = found.nonzero()
    meets = graph.meets.toarray() + torch.eye(graph.meets.shape[0]).numpy()
    assert bool((meets[graph.site[n + row], graph.site[column]] != 0).all())


IMAGES = [cls for cls in AFFINE if EXAMPLES[cls][0].windows() is not None]


@pytest.mark.parametrize("kind", IMAGES)
def test_positions_read_no_more_than_their_windows(kind: type[Layer]) -> None:
    layer, inputs, shape = EXAMPLES[kind]
    windows = layer.windows()
    assert windows is not None
    out = tuple(layer.linear(*(torch.zeros(1, *shape).double() for _ in range(inputs))).shape[1:])
    for matrix in matrices(layer, inputs, shape):
        read = matrix.reshape(*out, *shape) != 0
        for axis, window in enumerate(windows):
            for position in range(out[1 + axis]):
                low, high = window.reads((position, position + 1))
                seen = read.select(1 + axis, position).movedim(2 + 1 + axis, 0).flatten(1).any(1).nonzero().flatten()
                assert all(low <= int(p) < high for p in seen)


@pytest.mark.parametrize("kind", IMAGES)
def test_a_layer_on_a_box_makes_that_part_of_its_image(kind: type[Layer]) -> None:
    layer, inputs, shape = EXAMPLES[kind]
    windows = layer.windows()
    assert windows is not None
    values = [normal(1, *shape) for _ in range(inputs)]
    whole = layer.forward(*values)
    rows, columns = whole.shape[2:]
    for top, left in itertools.product(range(rows), range(columns)):
        box = ((top, min(top + 2, rows)), (left, min(left + 3, columns)))
        wanted = [window.reads(positions) for window, positions in zip(windows, box, strict=True)]
        if any(low >= n or high <= 0 for (low, high), n in zip(wanted, shape[1:], strict=True)):
            continue  # nothing but padding
        (before, behind), (first, last) = ((-low, high - n) for (low, high), n in zip(wanted, shape[1:], strict=True))
        padding = (first, last, before, behind)
        padded = layer.on_box(box, tuple(whole.shape[1:])).padded(padding)
        own = values if padded is not None else [torch.nn.functional.pad(value, padding) for value in values]
        found = (padded or layer.on_box(box, tuple(whole.shape[1:]))).forward(*own)
        torch.testing.assert_close(found, whole[..., slice(*box[0]), slice(*box[1])])


@pytest.mark.parametrize("kind", [cls for cls in KINDS if EXAMPLES[cls][0].windows() is None])
def test_what_has_no_windows_is_not_cut_into_tiles(kind: type[Layer]) -> None:
    layer, inputs, shape = EXAMPLES[kind]
    assert layer.padded((0, 0, 0, 0)) is None
    with pytest.raises(NotImplementedError, match="does not make boxes"):
        layer.on_box(((0, 1), (0, 1)), shape)
    with pytest.raises(NotImplementedError, match="does not make boxes"):
        reads(layer, (0, 1), 0)
    nodes = [Node("input", Input(), (), shape), Node("layer", layer, (0,) * inputs, shape)]
    assert not is_tileable(Network(tuple(nodes)))


@pytest.mark.parametrize("kind", AFFINE)
def test_multiplications_are_the_weights_that_a_pass_meets(kind: type[Layer]) -> None:
    layer, inputs, shape = EXAMPLES[kind]
    out = tuple(layer.linear(*(torch.zeros(1, *shape).double() for _ in range(inputs))).shape[1:])
    found = layer.multiplications(out)
    met = sum(int((matrix != 0).sum()) for matrix in matrices(layer, inputs, shape))
    assert found == 0 or found >= met
    assert found > 0 or met <= inputs * max(math.prod(out), math.prod(shape))


@dataclasses.dataclass(frozen=True, eq=False)
class Treble(Weightless):
    """All that a class has to state, some of it false, and no norm."""

    def linear(self, *inputs: Tensor) -> Tensor:
        return 3 * inputs[0]

    def roundings(self) -> int:
        return 1

    def adjoint_roundings(self) -> int:
        return 1

    def matrix(self, input_shape: Shape, shape: Shape) -> Matrix:
        return 3 * identity(shape)

    def windows(self) -> None:
        return

    def padded(self, padding: Padding) -> None:
        return

    def on_box(self, box: Box, shape: Shape) -> Layer:
        raise no_images(self)


def test_a_kind_without_a_norm_is_refused() -> None:
    for bound in (layer_norm, lambda layer, shape, hints: crude_norm(layer, hints)):
        with pytest.raises(NotImplementedError, match="Treble has no row in the table of norms"):
            bound(Treble(), IMAGE, HINTS)


def test_a_pattern_of_a_kind_that_planning_does_not_know_covers_everything() -> None:
    graph = layer_site_graph(Treble(), IMAGE, IMAGE)
    sites = graph.site[: math.prod(IMAGE)].max() + 1
    assert bool((graph.meets.toarray()[sites:, :sites] != 0).all())


@pytest.mark.parametrize("missing", STATED)
def test_a_class_that_does_not_state_all_cannot_be_instantiated(missing: str) -> None:
    stated = {name: getattr(Treble, name) for name in STATED if name != missing}
    with pytest.raises(TypeError, match=missing):
        type("Part", (Layer,), stated)()
    assert type("Whole", (Layer,), stated | {missing: getattr(Treble, missing)})() is not None


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
