"""Affine networks have the norm of the whole map, not the product of its parts' norms."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lipguard
from lipguard import DCPConfig
from lipguard.planning.gains import has_run, might_gain
from lipguard.trusted.lmi import matrices
from lipguard.trusted.lmi.matrices import freed_matrices
from lipguard.trusted.reading.trace import trace


class Last(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, -2:]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.inner(x)


def norm(model: nn.Module, shape: tuple[int, ...]) -> float:
    """By its matrix, column by column."""
    units = torch.eye(int(np.prod(shape)), dtype=torch.float64).reshape(-1, *shape)
    with torch.no_grad():
        columns = model.double()(units).flatten(1) - model(torch.zeros_like(units)).flatten(1)
    model.float()
    return float(torch.linalg.matrix_norm(columns, 2))


def standardised() -> nn.Module:
    scales = nn.BatchNorm1d(12)
    assert scales.running_var is not None
    scales.running_var.copy_(torch.rand(12) + 0.1)
    return nn.Sequential(scales, nn.Linear(12, 3))


MODELS = {
    "two matrices": (lambda: nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5)), (10,)),
    "more outputs": (lambda: nn.Sequential(nn.Linear(5, 9), nn.Linear(9, 40)), (5,)),
    "standardise, then a matrix": (standardised, (12,)),
    "circular padding": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (4, 8, 8)),
    "reflected padding": (lambda: nn.Conv2d(1, 2, (3, 1), padding=(1, 0), padding_mode="reflect"), (1, 7, 3)),
    "average pooling": (lambda: nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 4)),
                        (3, 8, 8)),
    "part of the output": (lambda: nn.Sequential(nn.Linear(6, 5), Last()), (6,)),
    "branches": (Residual, (2, 5, 4)),
    "separable": (lambda: nn.Sequential(nn.Conv2d(3, 3, 3, groups=3, padding=1), nn.Conv2d(3, 7, 1)), (3, 6, 5)),
}  # fmt: skip


OTHERS = ({"solver": "scs"}, {"partition": "cuts"}, {"proof": "sparse"}, {"proof": "randomised"}, {"max_seconds": 20.0})


@pytest.mark.parametrize(("name", "settings_of_it"), [
    *((name, {}) for name in MODELS),
    *((name, settings) for name in ("two matrices", "branches") for settings in OTHERS),
], ids=str)  # fmt: skip
def test_an_affine_network_has_its_norm(name: str, settings_of_it: dict[str, object]) -> None:
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model = build().eval()
    exact = norm(model, shape)
    report = lipguard.certify(model, shape, DCPConfig.from_dict(settings_of_it))
    assert exact * (1 - 1e-12) <= report.bound <= min(exact * 1.002, report.product_bound)
    assert report.lower_bound <= report.bound
    assert report.status == "complete"
    assert lipguard.verify(report.certificate, model) == report.bound


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 7), min_size=2, max_size=5), power=st.sampled_from([-40, 0, 60]),
       seed=st.integers(0, 99))  # fmt: skip
def test_chains_of_matrices_have_their_norm_at_any_scale(sizes: list[int], power: int, seed: int) -> None:
    torch.manual_seed(seed)
    layers = [nn.Linear(*pair, dtype=torch.float64) for pair in itertools.pairwise(sizes)]
    with torch.no_grad():
        layers[0].weight.mul_(2.0**power)
    product = layers[0].weight.detach()
    for layer in layers[1:]:
        product = layer.weight.detach() @ product
    exact = float(torch.linalg.matrix_norm(product, 2))
    report = lipguard.certify(nn.Sequential(*layers).eval(), (sizes[0],))
    assert exact * (1 - 1e-12) <= report.bound <= exact * 1.002


def test_full_matrices_are_multiplied_as_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 8), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 6), nn.Linear(6, 2)).eval()
    plain = freed_matrices(trace(model, (9,)))
    monkeypatch.setattr(matrices, "_MOST_TERMS", 0.0)
    for one, other in zip(freed_matrices(trace(model, (9,))), plain, strict=True):
        assert np.allclose(one.toarray(), other.toarray(), rtol=1e-13, atol=1e-14)


def test_one_map_is_what_its_norm_proves() -> None:
    torch.manual_seed(0)
    for model, shape in ((nn.Linear(5, 4), (5,)), (nn.Conv2d(2, 3, 3), (2, 6, 6)), (nn.Identity(), (3,)),
                         (nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (3, 2, 2))):  # fmt: skip
        report = lipguard.certify(model.eval(), shape)
        assert (report.proof, report.status) == ("product", "complete")
        assert not report.notes


def test_a_zero_in_the_middle_is_a_constant_of_zero() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).eval()
    nn.init.zeros_(model[1].weight)
    assert lipguard.certify(model, (4,)).bound == 0.0


def test_a_product_that_one_eigenvalue_would_lower_is_not_complete() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 60), nn.Linear(60, 40)).eval()
    report = lipguard.certify(model, (50,), DCPConfig(max_memory=1000.0, failure_probability=0))
    assert report.bound == report.product_bound
    assert report.status.startswith("fallback: block 0: no LMI of it fits")


def test_runs_are_seen_between_activations() -> None:
    run = nn.Sequential(nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU())
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    single = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    found = [(has_run(n), might_gain(n)) for n in (trace(model.eval(), (4,)) for model in (run, plain, single))]
    assert found == [(True, True), (False, True), (False, False)]
