"""What is made of a validation's samples: their logits computed anew, and whether they are the network's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lipguard
from lipguard.callbacks.recomputed import disagreement, recompute
from lipguard.callbacks.validated import Samples, Validated
from lipguard.certifying.margins import Margins
from lipguard.certifying.radii import ROUNDING
from lipguard.trusted.reading.trace import trace


def classifier() -> tuple[nn.Linear, Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(20, 4).eval()
    return model, lipguard.certify_margins(model, (20,), lipguard.certify(model, (20,))).constants


def samples(model: nn.Linear, x: Tensor, seen: Tensor) -> Samples:
    exact = x.double() @ model.weight.detach().double().T + model.bias.detach().double()
    return Samples(x, seen, exact.argmax(1), max(ROUNDING[x.dtype], ROUNDING[seen.dtype]))


def exact_radii(model: nn.Linear, x: Tensor, predicted: Tensor) -> Tensor:
    weight, bias = model.weight.detach().double(), model.bias.detach().double()
    logits = x.double() @ weight.T + bias
    gap = logits.gather(1, predicted[:, None]) - logits
    far = (weight[predicted][:, None] - weight[None]).norm(dim=2).clamp_min(1e-300)
    return torch.where(torch.arange(4) != predicted[:, None], gap / far, torch.inf).amin(1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_radii_are_those_of_the_samples_before_they_were_rounded(dtype: torch.dtype) -> None:
    model, constants = classifier()
    x = torch.randn(500, 20, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    read = x.to(dtype)
    with torch.no_grad():
        seen = model(read.float()).to(dtype)
    found = recompute(samples(model, read, seen), trace(model, (20,)), constants, 0.1)
    assert bool(found.computed.all())
    radii = Margins(constants).certified_radius(found.logits, found.error)
    exact = exact_radii(model, x, found.logits.argmax(1))
    assert bool((radii <= exact.clamp_min(0.0)).all())
    assert float((exact.clamp_min(0.0) - radii).max()) < 0.1
    assert not disagreement(samples(model, read, seen), found)


@pytest.mark.parametrize(
    ("dtype", "factor", "shift", "same"),
    [
        (torch.float32, 1.0, 0.0, True), (torch.float32, 1.01, 0.0, False), (torch.float32, 1.0, 0.02, False),
        (torch.float16, 1.0, 0.0, True), (torch.float16, 1.05, 0.0, False),
        (torch.bfloat16, 1.0, 0.0, True), (torch.bfloat16, 0.7, 0.0, False), (torch.bfloat16, 1.0, 0.5, False),
        (torch.float64, 1.0, float("nan"), False), (torch.float64, 1.0, float("inf"), False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_logits_are_compared_in_units_of_margins(
    dtype: torch.dtype, factor: float, shift: float, same: bool, offset: float
) -> None:
    model, constants = classifier()
    with torch.no_grad():
        model.bias.add_(offset)
        x = torch.randn(100, 20)
        plain = model(x).double()
        moved = (offset + factor * (plain - offset)) + shift * torch.tensor([1.0, 0.0, 0.0, 0.0])
    own = samples(model, x, moved.to(dtype))
    differs = disagreement(own, recompute(own, trace(model, (20,)), constants, 0.1))
    assert ("does not return" not in differs) == same


def test_a_batch_is_kept_as_it_was_read() -> None:
    model, _ = classifier()
    validated = Validated()
    validated.begin(model, (20,))
    x, y = torch.randn(6, 20), torch.arange(6)
    before = x.clone()
    with torch.no_grad():
        logits = model(x)
    validated.add(model, (x, y))
    x.zero_()
    found = validated.take()
    assert found is not None
    assert torch.equal(found.inputs, before)
    assert torch.equal(found.logits, logits)
    assert torch.equal(found.target, y)
    assert validated.take() is None
    assert not model._forward_hooks


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_coarsest_format_on_the_way_counts(precision: torch.dtype) -> None:
    model, _ = classifier()
    validated = Validated()
    for x, autocast in ((torch.randn(6, 20), True), (torch.randn(6, 20).to(precision), False)):
        own = model.to(x.dtype)
        validated.begin(own, (20,))
        with (
            torch.no_grad(),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast and precision != torch.float32),
        ):
            own(x)
        validated.add(own, (x, torch.arange(6)))
        found = validated.take()
        assert found is not None
        assert found.rounding == ROUNDING[precision]
