"""A softmax at the end is left out, and said: the bound is one of the logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.forward import Forward
from helpers.networks import with_weights
from torch import nn

import lipguard
from lipguard.trusted.reading.trace import trace


def body() -> nn.Module:
    return with_weights(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), 0)


ENDS: dict[str, Any] = {
    "log_softmax": lambda m, x: F.log_softmax(m.body(x), 1),
    "softmax": lambda m, x: torch.softmax(m.body(x), dim=-1),
    "moved": lambda m, x: m.body(x)[:, None].transpose(1, 2).softmax(1).flatten(1),
    "flipped": lambda m, x: m.body(x).flip(1).log_softmax(1),
    "flipped behind": lambda m, x: m.body(x).log_softmax(1).flip(1),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_bound_is_that_of_the_logits_and_says_so(name: str) -> None:
    model = Forward(ENDS[name], body=body())
    report, logits = lipguard.certify(model, (4,)), lipguard.certify(model.body, (4,))
    assert report.bound == pytest.approx(logits.bound, rel=1e-6)
    assert any("one of the logits" in note for note in report.notes)
    assert "one of the logits" in str(report)
    assert lipguard.verify(report.certificate, model) == report.bound
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, expected = trace(model, (4,)).forward(x), model(x)
    assert torch.equal(found.argsort(1), expected.argsort(1))
    differences = found - found[:, :1]
    if "log" in name or "flipped" in name:
        torch.testing.assert_close(differences, expected - expected[:, :1])


@pytest.mark.parametrize("name", ENDS)
def test_probabilities_are_read_where_they_are_asked_for(name: str) -> None:
    model = Forward(ENDS[name], body=body())
    network = trace(model, (4,), output="probabilities")
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network.forward(x), model(x))
    assert network.notes == ()


@pytest.mark.parametrize(
    "end",
    [
        lambda m, x: m.body(x).softmax(1)[:, 1:],
        lambda m, x: m.body(x).softmax(1) * 2,
        lambda m, x: m.body(x).softmax(1).repeat_interleave(2, 1),
        lambda m, x: m.body(x).softmax(1) + m.body(x),
        lambda m, x: F.pad(m.body(x).softmax(1), (1, 0)),
        lambda m, x: m.body(x)[:, None].softmax(1)[:, 0] + 0 * x[:, :3],
    ],
)
def test_what_is_more_than_a_softmax_at_the_end_is_read_as_it_is(end: Any) -> None:
    model = Forward(end, body=body())
    network = trace(model, (4,))
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network.forward(x), model(x))


def test_of_images_one_axis_is_the_classes() -> None:
    model = with_weights(nn.Sequential(nn.Conv2d(2, 3, 2), nn.LogSoftmax(1)), 0)
    network = trace(model, (2, 4, 4))
    assert len(network.nodes) == 2
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network.forward(x), model[0](x))


def test_a_softmax_alone_is_itself() -> None:
    assert lipguard.certify(nn.Softmax(1), (3,)).bound == pytest.approx(0.5, rel=1e-6)
