"""Reading a network changes nothing: not the model, whatever its code does, not the random numbers that follow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.forward import Forward
from helpers.networks import Sample, networks, with_weights
from helpers.odd_models import ODD_MODELS, plain
from helpers.photograph import photograph
from hypothesis import given
from torch import Tensor, nn

import lipguard
from lipguard import LipschitzBound, LipschitzPenalty
from lipguard.errors import LipguardError
from lipguard.trusted.reading.private import PrivateCopy, in_eval_mode
from lipguard.trusted.reading.trace import trace

CERTIFICATE = lipguard.certify(plain(), (4,)).certificate
READERS: dict[str, Callable[[nn.Module], Any]] = {
    "trace": lambda model: trace(model, (4,)),
    "certify": lambda model: lipguard.certify(model, (4,)),
    "certify on a domain": lambda model: lipguard.certify(model, (4,), domain=lipguard.Box(-1, 1)),
    "plan": lambda model: lipguard.plan(model, (4,)),
    "verify": lambda model: lipguard.verify(CERTIFICATE, model),
    "metric": lambda model: LipschitzBound((4,)).update(model),
    "penalty": lambda model: LipschitzPenalty(model, (4,))(),
}


def tried(read: Callable[[], Any]) -> bool:
    """Whether it came to its end."""
    try:
        read()
    except LipguardError:
        return False
    return True


@given(networks())
def test_a_traced_model_is_as_it_was(sample: Sample) -> None:
    model = sample.model
    model(sample.inputs().requires_grad_().clone()).sum().backward()
    before = photograph(model)
    trace(model, sample.input_shape)
    assert photograph(model) == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("training", [False, True], ids=["eval mode", "training mode"])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ODD_MODELS)
def test_a_model_is_as_it_was_whoever_reads_it(name: str, reader: str, training: bool) -> None:
    torch.manual_seed(0)
    model = ODD_MODELS[name]()
    if name != "mixed modes":
        model.train(training)
    before = photograph(model)
    tried(lambda: READERS[reader](model))
    assert photograph(model) == before


@pytest.mark.parametrize("name", ODD_MODELS)
def test_an_optimizer_from_before_goes_on_as_if_nothing_had_been(name: str) -> None:
    if name in ("a hook that fails", "layers in a list"):
        pytest.skip("it cannot be trained")
    found = []
    for reads in (False, True):
        torch.manual_seed(0)
        model = ODD_MODELS[name]()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, momentum=0.9)
        x = torch.randn(6, 4).to(next(model.parameters()).dtype) if list(model.parameters()) else torch.randn(6, 4)
        for _ in range(3):
            if reads:
                tried(lambda: lipguard.certify(model, (4,)))  # noqa: B023
            optimizer.zero_grad()
            y = model(x)
            if y.requires_grad:
                y.square().sum().backward()
                optimizer.step()
        found.append({key: value.clone() for key, value in model.state_dict().items()})
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


HAVE_BOUNDS = (
    "two names", "tied weights", "a buffer that forward assigns", "a cache", "a model that keeps what it sees",
    "a model that counts and draws", "a child that tells its parent", "a hook that collects", "pruned", "spectral norm",
    "weight norm", "spectral norm by a hook", "gradients", "bfloat16",
)  # fmt: skip


@pytest.mark.parametrize("name", HAVE_BOUNDS)
def test_what_leaves_the_function_as_it_is_has_a_bound(name: str) -> None:
    torch.manual_seed(0)
    model = ODD_MODELS[name]().eval()
    report = lipguard.certify(model, (4,))
    x = torch.randn(2, 4, dtype=next(model.parameters()).dtype, requires_grad=True) if list(model.parameters()) else (
        torch.randn(2, 4, requires_grad=True)
    )  # fmt: skip
    slopes = torch.autograd.functional.jacobian(model, x)[0, :, 0].double()
    assert 0 < float(torch.linalg.matrix_norm(slopes, 2)) <= report.bound * 1.01
    assert report.bound <= report.product_bound


REFUSED: dict[str, Callable[[], nn.Module]] = {
    "batch norm of its batches": lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)),
    "functional dropout": lambda: Forward(lambda m, x: F.dropout(m.layer(x)), layer=nn.Linear(4, 4)).eval(),
    "unsupported layer": lambda: nn.Sequential(nn.Linear(4, 4), nn.Hardshrink()).eval(),
    "random layer": lambda: nn.Sequential(nn.Linear(4, 4), nn.RReLU()).train(),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_model_is_as_it_was(case: str) -> None:
    model = REFUSED[case]()
    before = photograph(model)
    with pytest.raises(LipguardError):
        trace(model, (4,))
    assert photograph(model) == before


def test_an_interrupt_in_the_middle_leaves_no_trace() -> None:
    def interrupted(m: Any, x: Any) -> Any:
        m.count = 1
        raise KeyboardInterrupt

    model = Forward(interrupted, layer=nn.Linear(4, 4))
    before = photograph(model)
    with pytest.raises(KeyboardInterrupt):
        trace(model, (4,))
    assert photograph(model) == before


def test_later_changes_of_the_model_do_not_reach_the_network() -> None:
    model = with_weights(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), 0)
    network = trace(model, (3,))
    x = torch.ones(1, 3, dtype=torch.float64)
    before = network.forward(x)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.zero_()
    assert torch.equal(network.forward(x), before)


def test_other_threads_train_on_while_models_are_read() -> None:
    torch.manual_seed(0)
    trained, read = plain(), [ODD_MODELS[name]().eval() for name in ("two names", "a cache", "pruned")]
    failures: list[BaseException] = []
    stop = threading.Event()

    def train() -> None:
        optimizer = torch.optim.SGD(trained.parameters(), 1e-3)
        try:
            while not stop.is_set():
                optimizer.zero_grad()
                trained(torch.ones(3, 4)).square().sum().backward()
                optimizer.step()
        except BaseException as error:
            failures.append(error)

    def keep_reading(model: nn.Module) -> None:
        try:
            for _ in range(10):
                trace(model, (4,))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=keep_reading, args=(model,)) for model in [*read, trained]]
    trainer = threading.Thread(target=train)
    trainer.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    trainer.join()
    assert not failures
    assert nn.Module.__call__.__qualname__ == "Module._wrapped_call_impl"  # nothing of a tracer is left in it


def test_a_private_copy_has_tensors_containers_and_hooks_of_its_own() -> None:
    model = ODD_MODELS["a hook that collects"]()
    copied = PrivateCopy(model, torch.float64)
    x = torch.ones(2, 4)
    torch.testing.assert_close(copied.module(x.double()).float(), model(x))
    assert {id(t) for t in copied.module.state_dict(keep_vars=True).values()}.isdisjoint(
        {id(t) for t in model.state_dict(keep_vars=True).values()}
    )
    assert all(t.dtype == torch.float64 for t in copied.module.state_dict().values())
    assert copied.original(copied.module[0].weight) is model[0].weight  # type: ignore[index]


def test_a_private_copy_shares_what_is_compared_by_identity() -> None:
    model = Forward(lambda m, x: m.act(m.layer(x)), layer=nn.Linear(4, 2), act=F.relu, kind=nn.ReLU)
    copied = PrivateCopy(model).module
    assert (copied.act, copied.kind) == (F.relu, nn.ReLU)


def test_a_copy_in_eval_mode_leaves_the_modes_of_the_original() -> None:
    model = ODD_MODELS["mixed modes"]()
    modes = [module.training for module in model.modules()]
    copied = in_eval_mode(model)
    assert not any(module.training for module in copied.modules())
    assert [module.training for module in model.modules()] == modes == [True, True, False, True, True]


def test_a_module_that_logs_logs_nothing_of_what_a_copy_computes() -> None:
    class Logging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self._trainer, self.logged = nn.Linear(4, 2), object(), [0.0]

        def log(self, name: str, value: Any) -> None:
            raise AssertionError

        def log_dict(self, values: Any) -> None:
            raise AssertionError

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x)
            self.log("mean", y)
            return y

    trace(Logging().eval(), (4,))
