"""Weights at the ends of what floats can hold, and tensors in odd formats: a valid bound, or a clear error."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from helpers import balls
from helpers.networks import Sample, with_weights
from helpers.sandwich import drawn, sampled
from torch import Tensor, nn

import lipguard
from lipguard import DCPConfig
from lipguard.errors import LipguardError

PROOFS = ["dense", "sparse", "randomised"]
CONFIGS = [*(DCPConfig(proof=proof) for proof in PROOFS), DCPConfig(partition="cuts", max_block_size=14)]


def bounded(model: nn.Module, shape: tuple[int, ...], config: DCPConfig | None = None) -> lipguard.Report | None:
    """The report, verified, with all that must hold; None where the network is refused."""
    try:
        report = lipguard.certify(model, shape, config)
    except LipguardError:
        return None
    assert 0 <= report.lower_bound <= report.bound <= report.product_bound
    assert not math.isnan(report.bound)
    assert lipguard.verify(report.certificate, model) == report.bound
    return report


def dense(*scales: float, seed: int = 0) -> nn.Sequential:
    layers = [nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.LeakyReLU(0.1), nn.Linear(5, 3)]
    model = with_weights(nn.Sequential(*layers), seed)
    assert isinstance(model, nn.Sequential)
    with torch.no_grad():
        for layer, scale in zip((model[0], model[2], model[4]), scales, strict=True):
            layer.weight *= scale
            layer.bias *= min(scale, 1.0)
    return model


@functools.cache
def unit_product() -> float:
    """Of the network with weights of ordinary size."""
    return lipguard.certify(dense(1.0, 1.0, 1.0), (4,)).product_bound


EXTREMES = [
    (1e-300, 1.0, 1.0), (1.0, 1e-300, 1.0), (1.0, 1.0, 1e-300), (1e-150, 1e-150, 1.0), (1e-200, 1e-200, 1e-200),
    (1e150, 1.0, 1.0), (1.0, 1e150, 1.0), (1.0, 1.0, 1e150), (1e100, 1e-100, 1.0), (1e150, 1e-300, 1e150),
    (1e-310, 1.0, 1.0), (5e-324, 5e-324, 1e300), (1e150, 1e150, 1.0), (1e150, 1e150, 1e150), (1e8, 1e-8, 1e8),
]  # fmt: skip


@pytest.mark.parametrize("scales", EXTREMES, ids=str)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.partition}-{c.proof}")
def test_weights_from_the_smallest_to_the_largest(scales: tuple[float, float, float], config: DCPConfig) -> None:
    report = bounded(dense(*scales), (4,), config)
    if report is None:
        return
    exponent = sum(map(math.log10, scales))
    if -290 < exponent < 290 and min(scales) > 1e-300:
        assert math.log10(report.product_bound) == pytest.approx(exponent + math.log10(unit_product()), abs=1e-3)


@pytest.mark.parametrize("entry", [5e-324, 1e-320, 2.3e-308, 1e-200])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.partition}-{c.proof}")
def test_denormals_among_ordinary_weights(entry: float, config: DCPConfig) -> None:
    model = dense(1.0, 1.0, 1.0)
    with torch.no_grad():
        model[0].weight[0] = entry
        model[2].weight[:, 1] = -entry
        model[4].weight[1] = entry
    assert bounded(model, (4,), config) is not None


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.partition}-{c.proof}")
def test_identical_rows_zero_rows_and_ranks_of_one(config: DCPConfig) -> None:
    for spoil in ("identical rows", "zero rows", "rank one", "all zero", "one entry"):
        model = dense(1.0, 1.0, 1.0)
        with torch.no_grad():
            for layer in (model[0], model[2]):
                w = layer.weight
                if spoil == "identical rows":
                    w[1:] = w[:1].clone()
                elif spoil == "zero rows":
                    w[::2] = 0
                elif spoil == "rank one":
                    w.copy_(torch.outer(w[:, 0], w[0]))
                elif spoil == "all zero":
                    w.zero_()
                else:
                    w.zero_()[0, 0] = 1e-3
        report = bounded(model, (4,), config)
        assert report is not None
        if spoil == "all zero":
            assert report.bound == 0


@pytest.mark.parametrize(("widest", "proved"), [(1, True), (7, False)])
def test_ill_conditioned_chains_of_fifty_layers(widest: int, proved: bool) -> None:
    """Condition numbers of up to 10^10 per layer; the product is 10^147 then, and norms are all that is proved."""
    generator = torch.Generator().manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(50):
        layer = nn.Linear(3, 3).double()
        U, V = (torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0] for _ in range(2))
        stretch = torch.tensor([10.0 ** (i % widest), 1.0, 10.0 ** -(i % 5)], dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(U * stretch @ V)
        layers += [layer, nn.ReLU()]
    report = bounded(nn.Sequential(*layers, nn.Linear(3, 2).double()).eval(), (3,), DCPConfig(max_iterations=50))
    assert report is not None
    assert not proved or report.bound < report.product_bound


def image_model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(27, 3)).eval()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_format_is_taken_as_the_numbers_that_it_holds(dtype: torch.dtype) -> None:
    """The bound of a half-precision model is that of the double-precision model with the same numbers."""
    narrow = image_model().to(dtype)
    wide = image_model().to(dtype).double()
    report = bounded(narrow, (2, 8, 8))
    same = bounded(wide, (2, 8, 8))
    assert report is not None
    assert same is not None
    assert report.bound == pytest.approx(same.bound, rel=1e-4)
    assert lipguard.verify(same.certificate, wide) == same.bound
    assert sampled(wide, drawn((2, 8, 8))) <= report.bound
    assert next(narrow.parameters()).dtype == dtype


def test_memory_formats_and_strides_do_not_matter() -> None:
    plain = image_model()
    report = bounded(plain, (2, 8, 8))
    assert report is not None
    last = image_model().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    strided = image_model()
    shared = image_model()
    with torch.no_grad():
        for model in (strided, shared):
            for module in model.modules():
                if isinstance(module, (nn.Conv2d, nn.Linear)):
                    w = module.weight
                    padded = torch.zeros(*w.shape[:-1], 2 * w.shape[-1])
                    padded[..., ::2] = w
                    module.weight = nn.Parameter(padded[..., ::2])
                    assert not module.weight.is_contiguous()
    flipped = image_model()
    flipped[0].weight = nn.Parameter(flipped[0].weight.detach().permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0))
    expanded = image_model()
    for model in (last, strided, flipped):
        assert lipguard.verify(report.certificate, model) == report.bound  # the same numbers have the same digest
    expanded[0].weight = nn.Parameter(torch.full((1, 1, 1, 1), 0.1).expand(4, 2, 3, 3))
    assert bounded(expanded, (2, 8, 8)) is not None


@pytest.mark.parametrize("levels", [1, 2, 127])
def test_weights_on_a_coarse_grid(levels: int) -> None:
    """As quantisation leaves them: many equal, many zero."""
    model = image_model()
    with torch.no_grad():
        for parameter in model.parameters():
            step = parameter.abs().max().clamp_min(1e-3) / levels
            parameter.copy_((parameter / step).round() * step)
    for proof in PROOFS:
        assert bounded(model, (2, 8, 8), DCPConfig(proof=proof)) is not None


def test_quantised_modules_are_refused_by_name() -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randint(-8, 8, (3, 4), dtype=torch.int8), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.linear(x, self.weight.to(x.dtype) * 0.1)

    report = bounded(Quantised(), (4,))
    if report is not None:  # constants that are computed are numbers like any other
        exact = float(np.linalg.norm((Quantised().weight.double() * 0.1).numpy(), 2))
        assert report.bound > 0
        assert exact > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["weight", "bias", "running_var", "running_mean"])
def test_what_is_not_a_number_is_refused_with_its_place(bad: float, where: str) -> None:
    model = image_model()
    with torch.no_grad():
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        name = next(name for name in tensors if name.endswith(where))
        tensors[name].view(-1)[0] = bad
    with pytest.raises(LipguardError, match=name.split(".")[0]):
        lipguard.certify(model, (2, 8, 8))


@pytest.mark.parametrize("scale", [1e-100, 1e-12, 1.0, 1e12, 1e100])
def test_claims_in_extreme_units_hold_in_ball_arithmetic(scale: float) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with_weights(model, 0)
    with torch.no_grad():
        model[0].weight *= scale
        model[2].weight *= 1 / scale if scale > 1 else 1.0
    report = bounded(model, (3,))
    assert report is not None
    (multipliers,) = report.certificate.multipliers[0]
    A = balls.lmi(Sample(model, (3,)), multipliers, float(report.certificate.forms[0][0]))
    for i in range(A.nrows()):
        A[i, i] *= 1 + balls.flint.fmpq(1, 10**40)
    assert balls.is_positive_definite(A, 400)
