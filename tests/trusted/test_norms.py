"""Layer norms against the exact norm of the layer's own matrix, by every route."""

import dataclasses
import itertools
import math

import pytest
import torch
from helpers.layers import convolutions
from hypothesis import given, settings
from torch import nn

from lipguard.certifying.hints import HINTS
from lipguard.planning.orders import elimination
from lipguard.trusted.layers import Conv2d, Linear, Scale
from lipguard.trusted.norms import convolutions as of_convolutions
from lipguard.trusted.norms import layers as layer_norms
from lipguard.trusted.norms import matrices, product
from lipguard.trusted.reading.trace import trace


def exact_norm(layer: Conv2d, shape: tuple[int, ...]) -> float:
    columns = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return float(torch.linalg.matrix_norm(layer.linear(columns).flatten(1), 2))


@settings(max_examples=60)
@given(convolutions(smallest=3))
def test_every_route_bounds_the_exact_norm_of_a_convolution(case: tuple[Conv2d, tuple[int, ...]]) -> None:
    layer, shape = case
    exact = exact_norm(layer, shape)
    assert exact * (1 - 1e-12) <= layer_norms.layer_norm(layer, shape, HINTS) <= exact * (1 + 1e-9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_convolutions, "_SPARSE_SIDE", 0)
        patch.setattr(of_convolutions, "_NARROW", 1)
        by_gram_matrix = layer_norms.layer_norm(layer, shape, HINTS)
        patch.setattr(of_convolutions, "_NARROW", 10**9)
        by_sparse_matrix = layer_norms.layer_norm(layer, shape, HINTS)
        without_matrix(patch)
        by_frequency = layer_norms.layer_norm(layer, shape, HINTS)
        patch.setattr(of_convolutions, "_FREQUENCY_WORK", 0)
        by_patch = layer_norms.layer_norm(layer, shape, HINTS)
    assert exact * (1 - 1e-12) <= by_sparse_matrix <= exact * (1 + 2e-6)
    assert exact * (1 - 1e-12) <= by_gram_matrix <= exact * (1 + 2e-6)
    assert exact * (1 - 1e-12) <= by_frequency <= by_patch * (1 + 1e-12)


def without_matrix(patch: pytest.MonkeyPatch) -> None:
    """Only convolutions with one input or output entry are written out; kernels, of four rows at most, still are."""
    for module in (matrices, of_convolutions):
        patch.setattr(module, "DENSE_SIDE", 1)


def test_reads_behind_the_end_do_not_wrap_onto_the_image() -> None:
    """On a torus as small as the image a third of these would have a norm that is too small."""
    for seed in range(40):
        weight = torch.randn(1, 1, 1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        across = Conv2d(weight, None, padding=(0, 2, 0, 0)), (1, 1, 3)
        down = Conv2d(weight.movedim(3, 2), None, padding=(0, 0, 0, 2)), (1, 3, 1)
        for layer, shape in (across, down):
            with pytest.MonkeyPatch.context() as patch:
                without_matrix(patch)
                bound = layer_norms.layer_norm(layer, shape, HINTS)
            assert exact_norm(layer, shape) * (1 - 1e-12) <= bound, (seed, shape)


def test_the_frequency_route_is_exact_where_nothing_is_padded() -> None:
    weight = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer, shape = Conv2d(weight, None, (2, 2)), (2, 8, 8)
    with pytest.MonkeyPatch.context() as patch:
        without_matrix(patch)
        patch.setattr(Conv2d, "matrix", lambda *_: pytest.fail("the matrix was written out"))
        assert layer_norms.layer_norm(layer, shape, HINTS) == pytest.approx(exact_norm(layer, shape), rel=1e-8)


@pytest.mark.parametrize("channels", [(2, 3), (2, 6), (6, 2)])
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_larger_convolutions_are_bounded_by_sparse_factorisations(channels: tuple[int, int], scale: float) -> None:
    inputs, outputs = channels
    weight = torch.randn(outputs, inputs, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer, shape = Conv2d(weight, None, padding=(1, 1, 1, 1)), (inputs, 15, 15)
    exact = exact_norm(layer, shape)
    assert min(channels) * 15 * 15 > of_convolutions._SPARSE_SIDE
    found = layer_norms.layer_norm(dataclasses.replace(layer, weight=scale * weight), shape, HINTS)
    assert exact * (1 - 1e-12) <= found / scale <= exact * (1 + 2e-6)


def test_the_circular_norm_at_the_same_size_would_be_too_small() -> None:
    """A trap that peers fell into: zero padding is not periodic."""
    layer, shape, exceeded = None, (1, 6, 6), 0
    for seed in range(60):
        weight = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        layer = Conv2d(weight, None, (1, 1), (1, 1, 1, 1))
        circular = float(torch.fft.fft2(weight[0, 0], s=(6, 6)).abs().max())
        exact = exact_norm(layer, shape)
        exceeded += exact > circular * (1 + 1e-9)
        assert layer_norms.layer_norm(layer, shape, HINTS) >= exact
    assert exceeded > 0


def test_groups_take_the_largest_norm_not_the_product() -> None:
    weight = torch.stack([torch.full((1, 1, 1), 3.0), torch.full((1, 1, 1), 4.0)]).double()
    assert layer_norms.layer_norm(Conv2d(weight, groups=2), (2, 5, 5), HINTS) == pytest.approx(4, rel=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 7), (7, 1)])
def test_a_matrix_norm_is_closely_bounded_whatever_its_scale(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = float(torch.linalg.matrix_norm(weight, 2))
    for scale in (1.0, 2.0**-500, 2.0**300):
        bound = layer_norms.layer_norm(Linear(weight * scale), shape[1:], HINTS)
        assert exact * scale * (1 - 1e-14) <= bound <= exact * scale * (1 + 1e-11)


def test_zero_weights_have_norm_zero() -> None:
    assert layer_norms.layer_norm(Linear(torch.zeros(3, 2, dtype=torch.float64)), (2,), HINTS) == 0
    assert layer_norms.layer_norm(Conv2d(torch.zeros(3, 2, 2, 2, dtype=torch.float64)), (2, 4, 4), HINTS) == 0


def test_a_rounded_scale_is_widened_by_its_roundings() -> None:
    layer = Scale(torch.tensor([[[0.5]], [[-2.0]]], dtype=torch.float64), weight_ulps=4)
    assert 2 * (1 + 4 * 2.0**-53) <= layer_norms.layer_norm(layer, (2, 3, 3), HINTS) <= 2 * (1 + 1e-14)
    assert layer_norms.layer_norm(dataclasses.replace(layer, weight_ulps=0), (2, 3, 3), HINTS) <= 2 * (1 + 1e-15)


class TwoBranches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x)
        return torch.sigmoid(x + self.other(x))


def test_the_product_bound_adds_branches_and_multiplies_layers() -> None:
    torch.manual_seed(0)
    model = TwoBranches().double()
    one, other = (float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) for layer in (model.one, model.other))
    network = trace(model, (4,))
    bound = product.product_bounds(network, layer_norms.node_norms(network, HINTS))[-1]
    assert bound == pytest.approx(0.25 * one * (1 + other), rel=1e-10)
    assert bound >= 0.25 * one * (1 + other) * (1 - 1e-15)


@settings(max_examples=60)
@given(convolutions(smallest=3))
def test_a_norm_without_time_bounds_the_exact_norm_of_a_convolution(case: tuple[Conv2d, tuple[int, ...]]) -> None:
    layer, shape = case
    assert layer_norms.crude_norm(layer, HINTS) >= exact_norm(layer, shape) * (1 - 1e-12)


@pytest.mark.parametrize("shape", [(3, 700), (700, 3), (1, 1), (5, 5)])
def test_a_norm_without_time_bounds_that_of_a_matrix(shape: tuple[int, int]) -> None:
    layer = Linear(torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    found = layer_norms.crude_norm(layer, HINTS)
    assert found >= layer_norms.layer_norm(layer, shape[1:], HINTS) * (1 - 1e-9)
    assert found == pytest.approx(matrices.crude_matrix_norm(layer.weight.numpy(), 0), rel=1e-12)


def test_a_norm_without_time_is_exact_where_others_have_none() -> None:
    assert layer_norms.crude_norm(Scale(torch.tensor([2.0, -3.0], dtype=torch.float64)), HINTS) >= 3.0
    assert layer_norms.crude_norm(Linear(torch.zeros(3, 2, dtype=torch.float64)), HINTS) == 0


def test_norms_without_time_are_looser_and_are_told_apart() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))
    network = trace(model, (3, 8, 8))
    exact, late = layer_norms.node_norms(network, HINTS), layer_norms.node_norms(network, HINTS, -math.inf)
    assert all(loose >= tight * (1 - 1e-12) for loose, tight in zip(late, exact, strict=True))
    assert sum(loose > 1.01 * tight for loose, tight in zip(late, exact, strict=True)) == 3
    assert layer_norms.node_norms(network, HINTS, math.inf, exact=True) == exact
    with pytest.raises(matrices.LateNormError):
        layer_norms.node_norms(network, HINTS, -math.inf, exact=True)


@pytest.mark.parametrize("route", ["gram", "sparse", "frequency", "patch"])
def test_every_route_ends_at_a_deadline_that_comes_in_the_middle(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks with every look at it: wherever the deadline falls, the bound holds."""
    layer = Conv2d(torch.randn(6, 6, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    shape, exact = (6, 9, 9), exact_norm(layer, (6, 9, 9))
    monkeypatch.setattr(of_convolutions, "_SPARSE_SIDE", 0)
    monkeypatch.setattr(of_convolutions, "_NARROW", 1 if route == "gram" else 10**9)
    if route in ("frequency", "patch"):
        for module in (matrices, of_convolutions):
            monkeypatch.setattr(module, "DENSE_SIDE", 16)
    if route == "patch":
        monkeypatch.setattr(of_convolutions, "_FREQUENCY_WORK", 0)
    late = 0
    for deadline in (0.5, 2.5, 5.5, 10.5, 30.5, 1e6):
        clock = itertools.count()
        monkeypatch.setattr(matrices.time, "monotonic", lambda clock=clock: float(next(clock)))
        elimination._known.clear()
        try:
            found = layer_norms.layer_norm(layer, shape, HINTS, deadline)
        except matrices.LateNormError as error:
            late, found = late + 1, min(error.bound, layer_norms.crude_norm(layer, HINTS))
        assert found >= exact * (1 - 1e-12)
    assert 0 < late < 6
