"""What wraps a network changes nothing: not its digest, and not the wrapper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.forward import Forward
from helpers.networks import with_weights
from helpers.photograph import photograph
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import lipguard
from lipguard.errors import InvalidNetworkError
from lipguard.trusted.reading.trace import trace

COMPILE: dict[str, Any] = {"backend": "eager"}


def plain() -> nn.Sequential:
    model = with_weights(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 3)), 0)
    assert isinstance(model, nn.Sequential)
    return model


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(**COMPILE)
    return model


def with_compiled_forward(model: nn.Module) -> nn.Module:
    model.forward = torch.compile(model.forward, **COMPILE)  # type: ignore[method-assign]
    return model


class CompiledClass(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @torch.compile(**COMPILE)
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


@torch.compile(**COMPILE)
def compiled_function(net: nn.Module, x: Tensor) -> Tensor:
    return net(x)  # type: ignore[no-any-return]


def fabric_module(model: nn.Module) -> nn.Module:
    fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    return fabric.setup(model)  # type: ignore[no-any-return]


def layer_by_layer(m: Any, x: Tensor) -> Any:
    net = m.net.module
    return net[3](net[2](net[1](net[0](x))))


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torch.compile": lambda net: torch.compile(net, **COMPILE),  # type: ignore[dict-item,return-value]
    "compile()": compiled_in_place,
    "a compiled part": lambda net: Forward(lambda m, x: m.net(x), net=torch.compile(net, **COMPILE)),
    "a compiled forward": with_compiled_forward,
    "a compiled layer": lambda net: nn.Sequential(*map(with_compiled_forward, net)),  # type: ignore[arg-type]
    "a class that is compiled": CompiledClass,
    "a compiled function": lambda net: Forward(lambda m, x: compiled_function(m.net, x), net=net),
    "a compiled function that is held": lambda net: Forward(
        lambda m, x: m.call(x), net=net, call=torch.compile(lambda x: net(x), **COMPILE)
    ),
    "DataParallel": nn.DataParallel,
    "a part of DataParallel that is asked for": lambda net: Forward(layer_by_layer, net=nn.DataParallel(net)),
    "AveragedModel": AveragedModel,
    "Fabric": fabric_module,
    "several": lambda net: AveragedModel(torch.compile(nn.DataParallel(net), **COMPILE)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_wraps_a_network_is_looked_through(name: str) -> None:
    expected = trace(plain(), (4,)).digest
    wrapper = WRAPPERS[name](plain()).train()
    before = photograph(wrapper)
    assert trace(wrapper, (4,)).digest == expected
    assert photograph(wrapper) == before
    assert all(module.training for module in wrapper.modules())


def test_a_certificate_of_the_one_is_one_of_the_other() -> None:
    certificate = lipguard.certify(torch.compile(plain(), **COMPILE), (4,)).certificate
    assert lipguard.verify(certificate, plain()) == certificate.bound


def test_ddp_is_looked_through(tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapper = nn.parallel.DistributedDataParallel(plain())
        assert trace(wrapper, (4,)).digest == trace(plain(), (4,)).digest
    finally:
        torch.distributed.destroy_process_group()


def test_what_was_compiled_stays_compiled() -> None:
    graphs = []

    def backend(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph

    model = torch.compile(plain().eval(), backend=backend)
    trace(model, (4,))
    assert not graphs
    model(torch.zeros(2, 4, dtype=torch.float64))
    assert len(graphs) == 1


def test_a_penalty_of_a_compiled_layer_reaches_its_weights() -> None:
    model = plain()
    with_compiled_forward(model[0])
    lipguard.LipschitzPenalty(model, (4,))().backward()
    assert float(model[0].weight.grad.norm()) > 0


def patched(wrapper: nn.Module) -> nn.Module:
    wrapper.forward = lambda x: 3 * x  # type: ignore[method-assign]
    return wrapper


class Doubling(nn.DataParallel):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.module(x)  # type: ignore[no-any-return]


class DataParallel(nn.Module):
    """Of the name alone."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.module(x)  # type: ignore[no-any-return]


def hooked(wrapper: nn.Module) -> nn.Module:
    wrapper.register_forward_hook(lambda module, args, output: 2 * output)
    return wrapper


CHANGED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "a forward of its own": lambda net: patched(nn.DataParallel(net)),
    "a compiled module with a forward of its own": lambda net: patched(torch.compile(net, **COMPILE)),  # type: ignore[arg-type]
    "a subclass": Doubling,
    "a class of the same name": DataParallel,
    "a hook": lambda net: hooked(nn.DataParallel(net)),
    "a hook of a compiled module": lambda net: hooked(torch.compile(net, **COMPILE)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_wrapper_that_changes_something_is_none(name: str) -> None:
    """It is read as what it is, or refused."""
    model = CHANGED[name](plain()).eval()
    try:
        network = trace(model, (4,))
    except lipguard.errors.LipguardError:
        return
    x = torch.randn(2, 4, dtype=torch.float64)
    torch.testing.assert_close(network.forward(x), model(x))


def test_a_hook_of_a_wrapper_is_named() -> None:
    with pytest.raises(InvalidNetworkError, match="a DataParallel has a forward hook"):
        trace(hooked(nn.DataParallel(plain())), (4,))
