"""Reading a network changes nothing: not the model, not its modes, not the random numbers that follow."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers.forward import Forward
from helpers.networks import Sample, networks, with_weights
from hypothesis import given
from torch import Tensor, nn

from lipguard.errors import LipguardError, UnsupportedLayerError
from lipguard.network.trace import eval_mode, trace


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict(keep_vars=True).items()}


def assert_unchanged(model: nn.Module, before: dict[str, Tensor]) -> None:
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name


@given(networks())
def test_a_traced_model_is_as_it_was(sample: Sample) -> None:
    model = sample.model
    model(sample.inputs().requires_grad_().clone()).sum().backward()
    parameters = list(model.parameters())
    grads = [copy.deepcopy(parameter.grad) for parameter in parameters]
    before, modes, numbers = state(model), [m.training for m in model.modules()], torch.get_rng_state()
    trace(model, sample.input_shape)
    assert_unchanged(model, before)
    assert [m.training for m in model.modules()] == modes
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(parameter.requires_grad for parameter in parameters)
    for parameter, grad in zip(parameters, grads, strict=True):
        assert (parameter.grad is None) if grad is None else torch.equal(parameter.grad, grad)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert torch.is_grad_enabled()


REFUSED: dict[str, Callable[[], nn.Module]] = {
    "batch norm in train mode": lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train(),
    "dropout in train mode": lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train(),
    "functional dropout": lambda: Forward(lambda m, x: F.dropout(m.layer(x)), layer=nn.Linear(4, 4)).eval(),
    "unsupported layer": lambda: nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)).eval(),
    "random layer": lambda: nn.Sequential(nn.Linear(4, 4), nn.RReLU()).train(),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_model_is_as_it_was(case: str) -> None:
    model = REFUSED[case]()
    before, modes, numbers = state(model), [m.training for m in model.modules()], torch.get_rng_state()
    with pytest.raises(LipguardError):
        trace(model, (4,))
    assert_unchanged(model, before)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), numbers)


def test_weights_that_a_hook_computes_are_as_they_were() -> None:
    model = nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(4, 3))).eval()
    before = model[0].weight
    network = trace(model, (4,))
    assert model[0].weight is before
    x = torch.ones(1, 4)
    torch.testing.assert_close(network.forward(x), model(x), rtol=1e-5, atol=1e-6)


def test_later_changes_of_the_model_do_not_reach_the_network() -> None:
    model = with_weights(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), 0)
    network = trace(model, (3,))
    x = torch.ones(1, 3, dtype=torch.float64)
    before = network.forward(x)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.zero_()
    assert torch.equal(network.forward(x), before)


def _mixed() -> nn.Sequential:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), nn.BatchNorm1d(2)).train()
    model[0].eval()
    model[0][1].train()
    return model


def test_eval_mode_gives_every_module_its_own_flag_back() -> None:
    model = _mixed()
    with eval_mode(model) as inside:
        assert inside is model
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, False, False, True, True]


def test_eval_mode_gives_flags_back_after_errors() -> None:
    model = _mixed()
    with pytest.raises(UnsupportedLayerError), eval_mode(model):
        trace(nn.Sequential(model, nn.Softmax(-1)), (2,))
    assert [module.training for module in model.modules()] == [True, False, False, True, True]
