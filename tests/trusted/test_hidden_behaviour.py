"""Behaviour that is not in the graph (data-dependent control flow, hooks, patches, operations in place) is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.forward import Forward
from helpers.networks import with_weights
from helpers.odd_models import ODD_MODELS
from torch import Tensor, nn

from lipguard.errors import InvalidNetworkError, UnsupportedLayerError
from lipguard.trusted.reading.trace import trace


def small(call: Callable[[Any, Any], Any], **modules: nn.Module) -> nn.Module:
    return with_weights(Forward(call, layer=nn.Linear(4, 4), **modules), 0)


def sequence() -> nn.Sequential:
    model = with_weights(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), 0)
    assert isinstance(model, nn.Sequential)
    return model


DATA_DEPENDENT: dict[str, Callable[[Any, Any], Any]] = {
    "if on a sum": lambda m, x: m.layer(x) if x.sum() > 0 else x,
    "if on an item": lambda m, x: m.layer(x) if x.max().item() > 0 else x,
    "if on an int": lambda m, x: m.layer(x) if int(x.sum()) > 0 else x,
    "if on a float": lambda m, x: m.layer(x) if float(x.sum()) > 0 else x,
    "if on a later layer": lambda m, x: m.layer(x) if m.layer(x).norm() > 1 else x,
    "loop of a length found in the data": lambda m, x: [m.layer(x) for _ in range(int(x.abs().sum()) + 1)][-1],
    "and": lambda m, x: m.layer(x) if (x > 0).all() and (x < 9).all() else x,
}


@pytest.mark.parametrize("case", DATA_DEPENDENT)
def test_control_flow_on_values_is_refused(case: str) -> None:
    with pytest.raises(InvalidNetworkError, match="control flow"):
        trace(small(DATA_DEPENDENT[case]), (4,))


class Stubborn(nn.Module):
    """Its forward raises for what it does not want, as user code does."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = list(layers)  # not registered

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 4:
            raise ValueError("I want 4 features")
        return self.layers[0](x)


def test_a_loop_over_samples_is_refused() -> None:
    with pytest.raises(InvalidNetworkError, match="mixes the batch axis"):
        trace(small(lambda m, x: torch.stack([m.layer(sample) for sample in x])), (4,))


def test_errors_of_the_users_forward_are_invalid_networks() -> None:
    with pytest.raises(InvalidNetworkError, match="I want 4 features"):
        trace(Stubborn(nn.Linear(4, 4)), (5,))


def test_layers_of_a_plain_list_are_read() -> None:
    model = Stubborn(nn.Linear(4, 3))
    x = torch.randn(2, 4, dtype=torch.float64)
    torch.testing.assert_close(trace(model, (4,)).forward(x), model.layers[0].double()(x))


def test_networks_of_two_inputs_are_refused() -> None:
    with pytest.raises(InvalidNetworkError):
        trace(nn.Bilinear(4, 4, 2), (4,))


def test_lazy_layers_are_refused_and_stay_lazy() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(InvalidNetworkError):
        trace(model, (4,))
    assert isinstance(model[0], nn.LazyLinear)


def test_weights_on_the_meta_device_are_refused() -> None:
    with pytest.raises(InvalidNetworkError):
        trace(nn.Linear(4, 3, device="meta"), (4,))


HOOKS: dict[str, Callable[[nn.Sequential], Any]] = {
    "forward hook": lambda m: m[0].register_forward_hook(lambda module, args, output: 1.01 * output),
    "forward pre-hook": lambda m: m[2].register_forward_pre_hook(lambda module, args: (1.01 * args[0],)),
    "forward of one layer": lambda m: setattr(m[0], "forward", lambda x: 1.01 * F.linear(x, m[0].weight, m[0].bias)),
    "forward of an activation": lambda m: setattr(m[1], "forward", lambda x: x.abs()),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", HOOKS)
def test_hooks_and_patches_of_layers_are_detected(case: str, dtype: torch.dtype) -> None:
    model = sequence().to(dtype)
    trace(model, (4,))
    HOOKS[case](model)
    with pytest.raises(InvalidNetworkError):
        trace(model, (4,))


def test_a_hook_that_the_probe_does_not_show_is_detected() -> None:
    model = sequence()
    model[0].register_forward_hook(lambda module, args, output: output + 9 * torch.relu(output - 1e3))
    with pytest.raises(InvalidNetworkError):
        trace(model, (4,))


def test_a_hook_of_the_whole_model_is_detected_or_read() -> None:
    model = sequence()
    model.register_forward_hook(lambda module, args, output: torch.relu(output))
    network = trace(model, (4,))
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    torch.testing.assert_close(network.forward(x), model(x), rtol=0, atol=1e-12)


UNUSED: dict[str, Callable[[Any, Tensor], Any]] = {
    "relu_": lambda m, y: y.relu_(),
    "F.relu": lambda m, y: F.relu(y, inplace=True),
    "F.elu": lambda m, y: F.elu(y, 1.0, True),
    "module": lambda m, y: m.relu(y),
    "add_": lambda m, y: y.add_(y),
    "tanh_": lambda m, y: y.tanh_(),
    "of a view": lambda m, y: y.view(-1, 2, 2).relu_(),
}


def _unused(change: Callable[[Any, Tensor], Any]) -> Callable[[Any, Any], Any]:
    def forward(m: Any, x: Any) -> Any:
        y = m.layer(x)
        change(m, y)
        return m.head(y)

    return forward


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("case", UNUSED)
def test_operations_in_place_whose_result_is_not_used_are_detected(case: str, dtype: torch.dtype) -> None:
    model = small(_unused(UNUSED[case]), relu=nn.ReLU(inplace=True), head=nn.Linear(4, 2)).to(dtype)
    with pytest.raises(InvalidNetworkError, match=r"in.place"):
        trace(model, (4,))


@pytest.mark.parametrize("case", ["relu_", "F.relu", "F.elu", "module", "of a view"])
def test_they_are_detected_where_no_probe_shows_them(case: str) -> None:
    model = small(_unused(UNUSED[case]), relu=nn.ReLU(inplace=True), head=nn.Linear(4, 2))
    with torch.no_grad():
        model.layer.bias.fill_(1e3)  # type: ignore[union-attr]  # ReLU and ELU change nothing near the origin
    with pytest.raises(InvalidNetworkError, match=r"in.place"):
        trace(model, (4,))


def test_a_value_that_is_read_again_after_an_operation_in_place_is_detected() -> None:
    model = small(lambda m, x: m.layer(x.relu_()) + x)
    with pytest.raises(InvalidNetworkError, match=r"in.place"):
        trace(model, (4,))


def test_constants_that_are_no_parameters_are_read() -> None:
    model = small(lambda m, x: F.linear(m.layer(x), m.matrix, m.plain))
    model.register_buffer("matrix", torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4))
    model.plain = torch.ones(3, dtype=torch.float64)
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    torch.testing.assert_close(trace(model, (4,)).forward(x), model(x), rtol=0, atol=1e-12)


def test_noise_is_detected() -> None:
    with pytest.raises(InvalidNetworkError):
        trace(small(lambda m, x: F.linear(x, m.layer.weight, torch.randn(4, dtype=torch.float64))), (4,))


BY_BATCH: dict[str, Callable[[Any, Any], Any]] = {
    "divided by its size": lambda m, x: m.layer(x) / x.shape[0],
    "a list of samples": lambda m, x: m.layer(x[[0, 1, 2]]),
    "another order": lambda m, x: m.layer(x[[2, 1, 0]]),
    "rolled": lambda m, x: m.layer(x.roll(1, 0)),
    "flipped": lambda m, x: m.layer(x.flip(0)),
    "the first sample": lambda m, x: m.layer(x[:1]).expand(3, 4),
    "indices of samples": lambda m, x: m.layer(x.index_select(0, torch.tensor([0, 1, 2]))),
    "a view of the batch that was traced": lambda m, x: m.layer(x.view(3, 4)),
    "another layer for large batches": lambda m, x: m.layer(x) if x.shape[0] > 2 else m.layer(x).relu(),
    "a constant per sample": lambda m, x: m.layer(x) + torch.linspace(-1, 1, x.shape[0])[:, None],
}


@pytest.mark.parametrize("case", BY_BATCH)
def test_what_depends_on_the_batch_is_refused(case: str) -> None:
    with pytest.raises((InvalidNetworkError, UnsupportedLayerError)):
        trace(small(BY_BATCH[case]), (4,))


@pytest.mark.parametrize("bias", [0.0, 1e8, 1e14, 1e22])
def test_a_large_bias_hides_nothing(bias: float) -> None:
    def double(module: nn.Module, args: Any, output: Tensor) -> None:
        output.mul_(2.0)  # in place, and returns nothing

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    with torch.no_grad():
        model[1].bias.fill_(bias)
    trace(model, (4,))
    model[0].register_forward_hook(double)
    with pytest.raises(InvalidNetworkError, match="does not reproduce"):
        trace(model, (4,))


@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e5])
def test_what_shows_at_another_scale_only_is_found(scale: float) -> None:
    def bent(module: nn.Module, args: Any, output: Tensor) -> None:
        output.copy_(torch.where(output.abs() > scale, output.sign() * scale, output) if scale > 1 else
                     torch.where(output.abs() < scale, 0.0, output))  # fmt: skip

    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
    model[0].register_forward_hook(bent)
    with pytest.raises(InvalidNetworkError, match="does not reproduce"):
        trace(model, (4,))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("a buffer in place", "buffer 'buffer'"), ("a weight in place", "buffer 'weight'"),
        ("a plain in place", "attribute 'plain'"), ("a number in place", "attribute 'number'"),
    ],
)  # fmt: skip
def test_state_that_forward_changes_is_refused_by_name(name: str, what: str) -> None:
    with pytest.raises(InvalidNetworkError, match=what.replace("buffer 'weight'", "parameter 'weight'")):
        trace(ODD_MODELS[name]().eval(), (4,))


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "one entry": lambda w: w[5, 7].mul_(1 + 1e-12),
    "the last entry": lambda w: w[-1, -1].mul_(1 + 1e-12),
    "all rows": lambda w: w.copy_(w.roll(1, 0)),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_large_weight_that_changes_without_a_trace_is_found(case: str) -> None:
    """Where no output shows it: rows of zeros behind."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 300, bias=False), nn.Linear(300, 2, bias=False)).double().eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(512).expand(300, -1) if case == "all rows" else model[0].weight)
        model[0].weight[0, 0] += 2.0**-20
        model[1].weight.zero_()
        model[1].weight[:, 100] = 1.0

    def changed(module: nn.Module, x: object, y: object) -> None:
        CHANGES[case](module.weight.data)

    model[0].register_forward_hook(changed)
    with pytest.raises(InvalidNetworkError, match="0: forward reads and changes its parameter 'weight'"):
        trace(model, (512,))


def test_spectral_norm_in_training_mode_has_the_weight_of_eval_mode() -> None:
    torch.manual_seed(0)  # of so many rows that its vectors go on to change
    model = nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(nn.Linear(32, 32)))
    assert trace(model.train(), (32,)).digest == trace(model.eval(), (32,)).digest


def test_random_numbers_are_another_function_each_time() -> None:
    with pytest.raises(InvalidNetworkError):
        trace(small(lambda m, x: m.layer(x) * torch.rand(())), (4,))
