"""CertifiedAccuracy as a torchmetrics metric."""

from __future__ import annotations

import copy
import doctest
import pickle
from fractions import Fraction

import pytest
import torch
from torchmetrics import MetricCollection

from lipguard import CertifiedAccuracy, Margins
from lipguard.errors import ConfigError
from lipguard.metrics import certified_accuracy
from lipguard.metrics.certified_accuracy import signed_radii

LOGITS = torch.tensor([[4.0, 0.0, 0.0], [0.0, 1.0, 0.0], [2.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
TARGET = torch.tensor([0, 1, 0, 2])  # right, right, a tie, wrong


def test_docstring() -> None:
    assert doctest.testmod(certified_accuracy).failed == 0


def test_shares() -> None:
    metric = CertifiedAccuracy(epsilon=[0.0, 0.5, 1.0, 3.0], num_classes=3)
    metric.update(LOGITS, TARGET, bound=1.0, error=0.0)
    assert metric.compute().tolist() == [0.5, 0.5, 0.25, 0.0]
    assert float(metric.accuracy()) == 0.75
    assert float(metric.average_radius()) == pytest.approx((4 + 1) / 2**0.5 / 4)
    assert metric.curve(torch.linspace(0, 4, 9)).diff().max() <= 0


def test_at_the_radius_itself_nothing_is_certified() -> None:
    metric = CertifiedAccuracy(epsilon=1.0, num_classes=3)
    constants = torch.ones(3, 3, dtype=torch.float64)
    metric.update(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0]), margins=Margins(constants), error=0.0)
    assert float(metric.compute()) == 0.0


def test_margins_of_their_own() -> None:
    constants = torch.tensor([[0.0, 1.0, 8.0], [1.0, 0.0, 1.0], [8.0, 1.0, 0.0]])
    metric = CertifiedAccuracy(epsilon=0.9, num_classes=3)
    metric.update(LOGITS, TARGET, margins=Margins(constants), error=0.0)
    assert float(metric.compute()) == 0.25  # the second; the first has 4 / 8 to class 2


def test_radii_in_units_of_the_data() -> None:
    metric = CertifiedAccuracy(epsilon=0.5, num_classes=3, input_std=(0.25, 0.5))
    metric.update(LOGITS, TARGET, bound=1.0)
    assert float(metric.compute()) == 0.25  # 4 / sqrt(2) / 4 of the first


def test_logits_are_taken_to_be_rounded() -> None:
    metric = CertifiedAccuracy(epsilon=[0.7, 0.72], num_classes=2)
    margins = Margins(torch.ones(2, 2, dtype=torch.float64))
    logits = torch.tensor([[1.1, 0.4]], dtype=torch.float64)  # 0.7 apart, but for a rounding
    for own, error, shares in (
        (logits, 0.0, [0.0, 0.0]), (logits + torch.tensor([0.03, 0.0]), None, [1.0, 1.0]),
        (logits + torch.tensor([0.03, 0.0]), 0.01, [1.0, 0.0]), (logits.bfloat16(), None, [0.0, 0.0]),
    ):  # fmt: skip
        metric.reset()
        metric.update(own, torch.tensor([0]), margins=margins, error=error)
        assert metric.compute().tolist() == shares
    with pytest.raises(ValueError, match="Expected error to be"):
        metric.update(logits, torch.tensor([0]), margins=margins, error=-1.0)


def test_radii_in_units_of_the_data_are_rounded_down() -> None:
    margins = Margins(torch.ones(2, 2, dtype=torch.float64))
    logits = torch.rand(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    radii = margins.certified_radius(logits, 0.0)
    found = signed_radii(logits, logits.argmax(1), margins, 0.3081, 0.0)
    for own, plain in zip(found.tolist(), radii.tolist(), strict=True):
        assert Fraction(own) <= Fraction(0.3081) * Fraction(plain)
    assert torch.allclose(found, 0.3081 * radii, rtol=1e-12)
    assert bool((signed_radii(logits, logits.argmin(1), margins) == -1).all())


def test_batches_processes_and_copies() -> None:
    metric = CertifiedAccuracy(epsilon=0.5, num_classes=3)
    for k in range(4):
        metric(LOGITS[k : k + 1], TARGET[k : k + 1], bound=torch.tensor(1.0))
    assert float(metric.compute()) == 0.5
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert float(other.compute()) == 0.5
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert torch.isnan(metric.compute())
    both = MetricCollection({"a": CertifiedAccuracy(0.5, 3), "b": CertifiedAccuracy([1.0, 3.0], 3)})
    both.update(LOGITS, TARGET, bound=1.0)
    assert float(both.compute()["a"]) == 0.5


@pytest.mark.parametrize(
    "arguments",
    [
        {"epsilon": -1.0}, {"epsilon": []}, {"epsilon": float("nan")}, {"epsilon": ["x"]}, {"num_classes": 1},
        {"num_classes": True}, {"input_std": 0.0}, {"input_std": []}, {"input_std": (1.0, -1.0)},
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        CertifiedAccuracy(**arguments)  # type: ignore[arg-type]


def test_updates_that_make_no_sense() -> None:
    metric = CertifiedAccuracy(num_classes=3)
    for arguments in (
        {},
        {"bound": 1.0, "margins": Margins.of_bound(1.0, 3)},
        {"bound": -1.0},
        {"bound": float("nan")},
    ):
        with pytest.raises(ValueError, match="Expected"):
            metric.update(LOGITS, TARGET, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(n, 3\)"):
        metric.update(LOGITS[:, :2], TARGET, bound=1.0)
    with pytest.raises(ValueError, match=r"\(n, 3\)"):
        metric.update(LOGITS, TARGET[:2], bound=1.0)
