"""What cannot be read is refused with an error that names the place, never skipped."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.forward import Forward
from helpers.networks import with_weights
from torch import nn

from lipguard.errors import InvalidNetworkError, UnsupportedLayerError
from lipguard.trusted.reading.trace import trace


def small(call: Callable[[Any, Any], Any], **modules: nn.Module) -> nn.Module:
    return with_weights(Forward(call, layer=nn.Linear(4, 4), **modules), 0)


def test_unsupported_layers_are_named_with_path_type_and_advice() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Hardshrink()))
    with pytest.raises(UnsupportedLayerError) as caught:
        trace(model.eval(), (4,))
    error = caught.value
    assert (error.path, error.kind) == ("1.1", "torch.nn.modules.activation.Hardshrink")
    assert error.advice == "It jumps, and has no Lipschitz constant. Use a continuous activation."
    assert str(error).startswith(f"1.1: torch.nn.modules.activation.Hardshrink is not supported. {error.advice}")


def test_unknown_layers_are_named_with_their_nearest_in_one_line() -> None:
    with pytest.raises(UnsupportedLayerError) as caught:
        trace(nn.Sequential(nn.Linear(4, 4), nn.RReLU()).eval(), (4,))
    error = caught.value
    assert (error.path, error.kind) == ("1", "torch.nn.modules.activation.RReLU")
    assert error.advice.startswith("There is no rule for it. The nearest by name: ReLU")
    assert re.search(r"lipguard\.register.*docs/layers\.md", error.advice)
    assert "\n" not in str(error)


UNSUPPORTED: dict[str, Callable[[Any, Any], Any]] = {
    "function hardshrink": lambda m, x: F.hardshrink(m.layer(x)),
    "method prod": lambda m, x: x.prod(1),
    "function fmod": lambda m, x: torch.fmod(m.layer(x), 2),
    "method requires_grad_": lambda m, x: x.requires_grad_(),
    "method half": lambda m, x: m.layer(x).half(),
    "function eq": lambda m, x: m.layer(x) * (x == 0),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_unsupported_functions_are_named(kind: str) -> None:
    with pytest.raises(UnsupportedLayerError) as caught:
        trace(small(UNSUPPORTED[kind]), (4,))
    assert (caught.value.path, caught.value.kind) == (f"forward ({kind})", kind)


ODD_USES: dict[str, Callable[[Any, Any], Any]] = {
    "a product of other shapes": lambda m, x: m.layer(x)[:, None] * x,
    "a power of a constant": lambda m, x: 2 ** m.layer(x),
    "attention with a mask of its own": lambda m, x: F.scaled_dot_product_attention(*(x[:, :, None],) * 3, x[:, None]),
    "a norm of another kind": lambda m, x: x[:, :, None].norm("nuc", (1, 2)),
    "normalize with another norm": lambda m, x: F.normalize(x, 1.0),
    "einsum of three branches": lambda m, x: torch.einsum("bi,bi,bi->bi", m.layer(x), x, x),
    "einsum of an axis of one": lambda m, x: torch.einsum("bi,bi->bi", m.layer(x)[:, :1], x),
    "einsum of samples with others": lambda m, x: torch.einsum("bi,ci->bi", m.layer(x), x),
    "inner products of samples": lambda m, x: torch.inner(m.layer(x), x),
    "matrices of other axes": lambda m, x: m.layer(x)[:, None, None] @ x[:, :, None],
    "the batch axis at the end": lambda m, x: m.layer(x).T,
    "a layer where the batch axis is not the first": lambda m, x: m.layer(x[:, None].expand(-1, 2, 4).transpose(0, 1)),
    "places of maxima": lambda m, x: torch.max(x, 1)[1][:, None] * x,
    "the batch axis of matrices": lambda m, x: m.layer.weight[:3, :3] @ x,
    "half precision": lambda m, x: m.layer(x).to(torch.bfloat16).to(x.dtype),
    "whole numbers": lambda m, x: m.layer(x).long() + x,
    "a division that rounds": lambda m, x: torch.div(m.layer(x), 2, rounding_mode="floor"),
    "a jump": lambda m, x: torch.where(x > 0, x + 1, x),
    "a jump at a threshold": lambda m, x: F.threshold(x, 1.0, 0.0),
    "a choice between branches": lambda m, x: torch.where(x > 0, m.layer(x), x),
    "choices by different comparisons": lambda m, x: x * (x > 0) * (m.layer(x) > 0),
    "a choice by a choice": lambda m, x: torch.where((x > 0) * 0.5 > 0.2, x, 2 * x),
    "a comparison as the output": lambda m, x: (m.layer(x) > 0).float(),
    "a comparison of comparisons": lambda m, x: m.layer((x > 0).to(x.dtype)),
    "a sum of other axes": lambda m, x: m.layer(x)[:, None, :3] + x[:, :3],
    "weights from the input": lambda m, x: F.linear(m.layer.weight, x),
    "an unknown keyword": lambda m, x: torch.relu(input=x),
    "a view of another type": lambda m, x: x.view(torch.int64),
}


@pytest.mark.parametrize("use", ODD_USES)
def test_supported_operations_in_unsupported_ways_are_refused(use: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=r"^(forward|layer)") as caught:
        trace(small(ODD_USES[use]), (4,))
    assert not re.search(r"\n|\bRef\b|rule\(|_\w+\(\)", str(caught.value))  # one line, in words of the caller's


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.MaxPool2d(2, return_indices=True), "0: .*return"),
        (nn.LocalResponseNorm(2), "0: .*LocalResponseNorm.*neighbouring channels.*BatchNorm"),
        (nn.Threshold(1.0, 0.5), "0: .*threshold at 1.0.*jumps"),
        (nn.Hardshrink(), "0: .*Hardshrink.*jumps"),
        (nn.BatchNorm3d(2), "0: "),
    ],
)
def test_variants_outside_the_table_are_refused(layer: nn.Module, message: str) -> None:
    error = InvalidNetworkError if isinstance(layer, nn.BatchNorm3d) else UnsupportedLayerError
    with pytest.raises(error, match=message):
        trace(nn.Sequential(layer).eval(), (2, 5, 5))


@pytest.mark.parametrize(
    ("use", "why"),
    [
        (
            "a layer where the batch axis is not the first",
            "layer: .*Linear of a value whose batch axis is not the first",
        ),
        ("a comparison of comparisons", "layer: .*Linear of a choice by comparing values .* jumps"),
        ("places of maxima", "a part of the places of entries .* Use the values"),
    ],
)
def test_what_is_no_value_yet_says_what_it_is(use: str, why: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=why):
        trace(small(ODD_USES[use]), (4,))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1)])
def test_poolings_of_nothing_but_padding_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidNetworkError, match="0: a window of its max pooling holds nothing but padding"):
        trace(nn.Sequential(nn.MaxPool2d(2, 1, 1, 2)), shape)


def test_recurrent_layers_are_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"0: .*LSTM.*recurrent.*Unroll"):
        trace(nn.Sequential(nn.LSTM(5, 2)).eval(), (5,))


TRAIN_MODE: dict[str, Callable[[], nn.Module]] = {
    "0: batch norm that": lambda: nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)).eval(),
    "function dropout": lambda: Forward(lambda m, x: F.dropout(x)).eval(),  # training=True by default
    "function dropout2d": lambda: Forward(lambda m, x: F.dropout2d(x.view(-1, 4, 1, 1), 0.5, True)).eval(),
    "function batch_norm": lambda: Forward(lambda m, x: F.batch_norm(x, None, None, training=True)).eval(),
}


@pytest.mark.parametrize("message", TRAIN_MODE)
def test_behaviour_of_train_mode_is_refused(message: str) -> None:
    with pytest.raises(InvalidNetworkError, match=message):
        trace(TRAIN_MODE[message](), (4,))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_weights_that_are_not_finite_are_refused_by_path(name: str, value: float) -> None:
    model = with_weights(nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), nn.ReLU()), 0)
    with torch.no_grad():
        getattr(model[0][1], name)[1] = value
    with pytest.raises(InvalidNetworkError, match=r"^0\.1: 1 of 3 entries of its .*NaN or infinite"):
        trace(model, (3,))


def test_negative_variances_are_refused() -> None:
    model = with_weights(nn.Sequential(nn.BatchNorm1d(3)), 0)
    model[0].running_var[0] = -1.0
    with pytest.raises(InvalidNetworkError):
        trace(model, (3,))


@pytest.mark.parametrize("shape", [(0,), (4, 0), (), (-4,), (4.0,), ("4",), (True,), 4, None, (None,)])
def test_input_shapes_hold_positive_integers(shape: Any) -> None:
    with pytest.raises(InvalidNetworkError, match="input_shape"):
        trace(nn.Linear(4, 2), shape)


@pytest.mark.parametrize("shape", [(5,), (4, 1), (1, 2, 5, 5), (5, 5), (3, 5, 5)])
def test_input_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(48, 2))
    with pytest.raises(InvalidNetworkError, match="without the batch axis"):
        trace(model, shape)


def test_a_probe_batch_is_not_taken_for_channels() -> None:
    with pytest.raises(InvalidNetworkError, match="without the batch axis"):
        trace(nn.Conv2d(3, 2, 2), (5, 5))  # torch takes three images of 5x5 for one of three channels


def test_layers_without_entries_are_refused() -> None:
    with pytest.raises(InvalidNetworkError, match="no entries"):
        trace(nn.Sequential(nn.Conv2d(1, 1, 2), nn.ZeroPad2d((-1, 0, 0, 0))), (1, 2, 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: (m.layer(x), x),
        lambda m, x: {"logits": m.layer(x), "features": x},
        lambda m, x: None,
        lambda m, x: 1.0,
        lambda m, x: m.layer.bias,
        lambda m, x: torch.ones(3, 4),
    ],
)
def test_outputs_must_be_one_tensor_that_depends_on_the_input(call: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(InvalidNetworkError):
        trace(small(call), (4,))


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: x.view(-1, 2),
        lambda m, x: x.flatten(0),
        lambda m, x: x.flatten(),
        lambda m, x: x.reshape(1, -1),
        lambda m, x: torch.reshape(x, (2, 6)),
        lambda m, x: x.reshape(4, 3).reshape(3, 4),
    ],
)
def test_reshaping_that_mixes_samples_is_refused(call: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(InvalidNetworkError, match="mixes the batch axis"):
        trace(small(call), (4,))


def test_only_modules_are_networks() -> None:
    with pytest.raises(InvalidNetworkError, match="Module"):
        trace(torch.relu, (4,))  # type: ignore[arg-type]


def test_outputs_that_overflow_are_refused() -> None:
    model = with_weights(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e300)
    with pytest.raises(InvalidNetworkError, match="not finite"):
        trace(model, (4,))


@pytest.mark.parametrize(("gain", "variance"), [(1e-200, 1e300), (1e-310, 1.0), (1e300, 1e-300), (5e-324, 4.0)])
def test_scales_of_batch_norm_that_are_no_floats_are_refused(gain: float, variance: float) -> None:
    model = with_weights(nn.Sequential(nn.BatchNorm1d(3, eps=1e-320)), 0)
    with torch.no_grad():
        model[0].weight.fill_(gain)
        model[0].running_var.fill_(variance)
    with pytest.raises(InvalidNetworkError, match=r"3 of 3 of its factors|not finite"):
        trace(model, (3,))


def test_a_gain_of_zero_is_none_of_them() -> None:
    model = with_weights(nn.Sequential(nn.BatchNorm1d(3)), 0)
    with torch.no_grad():
        model[0].weight[1] = 0.0
    trace(model, (3,))


@pytest.mark.parametrize("divisor", [1e-310, 1e305, -5e-324])
def test_divisors_that_have_no_inverse_are_refused(divisor: float) -> None:
    with pytest.raises(InvalidNetworkError, match=r"its factors|not finite"):
        trace(small(lambda m, x: m.layer(x) / divisor), (4,))
