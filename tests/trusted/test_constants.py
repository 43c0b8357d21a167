"""Constants, whatever they are made of, and what only looks like one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.forward import Forward
from helpers.networks import with_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject
from torch import nn

import lipguard
from lipguard.errors import InvalidNetworkError, LipguardError
from lipguard.trusted.reading.trace import trace

Call = Callable[[Any, Any], Any]
SHAPE = (4,)


def model_of(call: Call) -> nn.Module:
    return with_weights(Forward(call, layer=nn.Linear(4, 4), weight=nn.Parameter(torch.zeros(4, 4))), 0)


CONSTANTS: dict[str, Call] = {
    "zeros like": lambda m, x: torch.zeros_like(x) + x,
    "ones of the batch": lambda m, x: x * torch.ones(len(x), 1) + x.new_full((len(x), 4), 2.0),
    "a value like another": lambda m, x: x[:, :1].expand_as(m.layer(x)) + x.type_as(m.weight),
    "a shape": lambda m, x: x / x.shape[1] ** 0.5 - x.size(-1),
    "an arange": lambda m, x: x * torch.arange(x.shape[1]),
    "a normalised weight": lambda m, x: F.linear(x, F.normalize(m.weight, dim=1)),
    "a softmax of weights": lambda m, x: x @ m.weight.softmax(0),
    "an eigenvalue": lambda m, x: x * torch.linalg.matrix_norm(m.weight, 2),
    "a mask": lambda m, x: x * (m.weight[0] > 0),
    "a triangle": lambda m, x: x @ torch.ones(4, 4, dtype=x.dtype).tril(),
    "an identity less a mean": lambda m, x: x @ (torch.eye(4, dtype=x.dtype) - 0.25),
    "items that are set": lambda m, x: _with_items(x),
    "a slice of a Sequential": lambda m, x: nn.Sequential(m.layer, nn.ReLU(), m.layer)[1:](x),
}


def _with_items(x: Any) -> Any:
    mask = x.new_zeros(4)
    mask[1:3] = 0.5
    return x * mask


@pytest.mark.parametrize("case", CONSTANTS)
def test_constants_are_folded(case: str) -> None:
    model = model_of(CONSTANTS[case])
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(trace(model, SHAPE).forward(x), model(x), rtol=1e-12, atol=1e-12)


NONE: dict[str, Call] = {
    "the size of the batch": lambda m, x: x * len(x),
    "a place in the batch": lambda m, x: x + torch.arange(len(x))[:, None],
    "one of each sample": lambda m, x: x * torch.rand(len(x), 1, generator=torch.Generator().manual_seed(0)),
    "a mean of the batch": lambda m, x: x - x.mean(0, keepdim=True),
    "a maximum of the batch": lambda m, x: x - x.amax(0),
    "sorted samples": lambda m, x: x.sort(0)[0],
    "a sum of all": lambda m, x: x * torch.full_like(x, 2.0).sum(),
    "random numbers": lambda m, x: x + torch.rand_like(x),
    "memory as it is": lambda m, x: x + 0 * torch.empty_like(x) + torch.zeros_like(x).bernoulli(),
    "a value as a number": lambda m, x: torch.full_like(x, float(x.sum())),
    "a sum with a place in the batch": lambda m, x: x.new_tensor([1.0]) * m.layer(x) + torch.arange(len(x))[:, None],
    "a mask that depends on values": lambda m, x: m.layer(x) * (x > 0),
}


@pytest.mark.parametrize("case", NONE)
def test_what_depends_on_values_or_on_the_batch_is_no_constant(case: str) -> None:
    with pytest.raises(LipguardError):
        trace(model_of(NONE[case]), SHAPE)


def test_a_constant_of_every_sample_is_refused_by_name() -> None:
    with pytest.raises(InvalidNetworkError, match=r"a constant of shape \(3, 1\) has a batch axis"):
        trace(model_of(NONE["a place in the batch"]), SHAPE)


def test_a_layer_of_the_name_of_a_method_depends_on_what_it_reads() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.new_zeros, self.expand_as = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.expand_as(self.new_zeros(x))  # type: ignore[no-any-return]

    network = trace(with_weights(Named(), 0), SHAPE)
    assert [node.path for node in network.nodes] == ["input", "new_zeros", "expand_as"]


def test_values_of_other_axes_do_not_meet() -> None:
    """torch would let the batch meet an axis of the sample, where both happen to be as long."""
    with pytest.raises(LipguardError):
        trace(Forward(lambda m, x: x[:, 0] + x.sum((1, 2), keepdim=True)), (3, 3))
    with pytest.raises(LipguardError):
        trace(Forward(lambda m, x: x.sum(2) + x), (3, 3))


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_contractions_are_those_of_torch(data: DataObject) -> None:
    """Letters at random: of the value, of a constant or two, kept or summed over."""
    sizes = dict(zip("ijklm", (2, 3, 1, 4, 2), strict=True))
    value = "".join(data.draw(st.lists(st.sampled_from("ijkl"), min_size=1, max_size=3, unique=True)))
    terms = ["".join(data.draw(st.permutations(list("ijklm")))[: data.draw(st.integers(1, 3))]) for _ in range(2)]
    terms = terms[: data.draw(st.integers(1, 2))]
    known = sorted(set(value + "".join(terms)))
    out = "".join(data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=4, unique=True)))
    equation = f"{','.join(['b' + value, *terms])}->b{out}"
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    weights = [torch.randn(*(sizes[c] for c in term), generator=generator, dtype=torch.float64) for term in terms]
    model = Forward(lambda m, x: torch.einsum(equation, x, *weights))
    network = trace(model, tuple(sizes[c] for c in value))
    x = torch.randn(5, *(sizes[c] for c in value), generator=generator, dtype=torch.float64)
    torch.testing.assert_close(network.forward(x), model(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("product", ["value", "constant"])
def test_matrix_products_are_those_of_torch_on_any_axes(product: str) -> None:
    for shape, other in [
        ((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3, 4)), ((2, 3), (3,)), ((2, 3), (2, 2)), ((2, 3), (2,)),
        ((5, 2, 3), (3, 2)), ((5, 2, 3), (5, 3, 2)), ((1, 2, 3), (5, 3, 2)),
        ((5, 2, 3), (1, 5, 2, 2)), ((5, 2, 3), (5, 4, 2)),
    ]:  # fmt: skip
        weight = torch.randn(*other, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        call: Call = (lambda m, x, w=weight: x @ w) if product == "value" else (lambda m, x, w=weight: w @ x)
        x = torch.randn(7, *shape, dtype=torch.float64)
        try:
            expected = call(None, x)
        except RuntimeError:
            continue
        if expected.shape[:1] != (7,):
            continue
        network = trace(Forward(call), shape)
        torch.testing.assert_close(network.forward(x), expected, rtol=1e-11, atol=1e-11)


def test_a_kept_axis_on_both_sides_has_the_norm_of_its_largest_matrix() -> None:
    weight = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    report = lipguard.certify(Forward(lambda m, x: torch.einsum("bhtd,hde->bhte", x, weight)), (3, 2, 4))
    exact = float(torch.linalg.matrix_norm(weight, 2).max())
    assert exact * (1 - 1e-9) <= report.bound <= exact * (1 + 1e-6)
