"""One function of a module: of one of its inputs, the others fixed, to one of its outputs."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.forward import Forward
from helpers.networks import with_weights
from torch import Tensor, nn

import lipguard
from lipguard.errors import CertificateError, ConfigError, InvalidNetworkError, LipguardError
from lipguard.trusted.reading.trace import trace


def net() -> nn.Module:
    return with_weights(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), 0)


EXPECTED = trace(net(), (4,)).digest


@dataclasses.dataclass
class Outputs:
    loss: Any
    logits: Any


class ModelOutput(OrderedDict[str, Any]):
    """As libraries of models have them: a dict, a dataclass and a tuple in one."""


Named = namedtuple("Named", ["loss", "logits"])
OUTPUTS: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {
    "the only one of a tuple": (lambda m, x: (m.net(x), None), None),
    "the only one of a dict": (lambda m, x: {"out": m.net(x), "size": x.shape}, None),
    "the only one of a dataclass": (lambda m, x: Outputs(None, m.net(x)), None),
    "the only one of floats": (lambda m, x: (m.net(x), m.net(x).argmax(1)), None),
    "a place": (lambda m, x: (x, m.net(x)), 1),
    "a place from the end": (lambda m, x: [x, m.net(x)], -1),
    "a place in a dict": (lambda m, x: {"features": x, "logits": m.net(x)}, 1),
    "a name": (lambda m, x: {"features": x, "logits": m.net(x)}, "logits"),
    "a name of a dataclass": (lambda m, x: Outputs(x.mean(1), m.net(x)), "logits"),
    "a name of a named tuple": (lambda m, x: Named(x, m.net(x)), "logits"),
    "a name of an ordered dict": (lambda m, x: ModelOutput(loss=x.mean(1), logits=m.net(x)), "logits"),
    "a name in a name": (lambda m, x: {"heads": (x, {"a.b": x, "c": m.net(x)})}, "heads.1.c"),
    "the only one of a name": (lambda m, x: {"heads": (m.net(x), None), "features": x}, "heads"),
    "logits, of one output": (lambda m, x: m.net(x), "logits"),
    "what is beside it is not read": (lambda m, x: (m.net(x), torch.fft.fft(x).real), 0),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_one_output_is_chosen(case: str) -> None:
    call, output = OUTPUTS[case]
    assert trace(Forward(call, net=net()), (4,), output=output).digest == EXPECTED


@pytest.mark.parametrize(
    ("call", "output", "words"),
    [
        (lambda m, x: (m.net(x), x), None, "tuple of 2: 0 of shape .*Choose one, such as output=0"),
        (lambda m, x: {"a": m.net(x), "b": x}, None, "dict of 2: a of shape .*output='a'"),
        (lambda m, x: {"a": (m.net(x), x)}, "a", "of 2: a.0 of shape .*output='a.0'"),
        (lambda m, x: None, None, "NoneType without any"),
        (lambda m, x: {"a": m.net(x), "b": x}, "c", "one of a, b, but got 'c'"),
        (lambda m, x: (m.net(x), x), 2, "one of 0, 1, but got 2"),
        (lambda m, x: m.net(x), 0, "output=None for a model that returns one tensor, but got 0"),
        (lambda m, x: m.net(x), True, "a name, a place or None, but got True"),
    ],
)
def test_an_output_that_is_not_clear_is_refused(call: Any, output: Any, words: str) -> None:
    with pytest.raises((InvalidNetworkError, ConfigError), match=words):
        trace(Forward(call, net=net()), (4,), output=output)


SHAPES: dict[str, Callable[[Any, Any], Any]] = {
    "squeeze": lambda m, x: m.net(x)[:, :1].squeeze(-1), "view": lambda m, x: m.net(x)[:, :1].view(-1),
    "index": lambda m, x: m.net(x)[:, 0], "sum": lambda m, x: m.net(x).sum(1),
    "an activation of it": lambda m, x: torch.tanh(3 * m.net(x)[:, 0] + 1) - m.net(x).mean(1),
}  # fmt: skip


@pytest.mark.parametrize("case", SHAPES)
def test_a_number_per_sample_has_the_bounds_of_one_output(case: str, caplog: pytest.LogCaptureFixture) -> None:
    model = Forward(SHAPES[case], net=net()).eval()
    column = Forward(lambda m, x: SHAPES[case](m, x)[:, None], net=net()).eval()
    found, expected = (lipguard.certify(m, (4,), domain=lipguard.Box(-1, 1)) for m in (model, column))
    assert trace(model, (4,)).output_shape == ()
    assert found.bound == expected.bound
    assert 0 < found.lower_bound <= found.bound
    assert found.restricted is not None
    assert lipguard.verify(found.certificate, model) == found.bound
    assert not caplog.records  # of a lower bound that failed


@pytest.mark.parametrize("proof", ["dense", "sparse", "randomised"])
def test_numbers_per_sample_inside_a_network_are_proved(proof: str) -> None:
    model = Forward(lambda m, x: m.last(torch.relu(m.net(x)[:, 0])[:, None]), net=net(), last=nn.Linear(1, 2).double())
    report = lipguard.certify(model.eval(), (4,), lipguard.DCPConfig(proof=proof))
    assert 0 < report.lower_bound <= report.bound <= report.product_bound
    assert lipguard.verify(report.certificate, model) == report.bound
    assert 0 < lipguard.LipschitzPenalty(model, (4,)).estimate() <= report.bound * 1.001


class Rates(nn.Module):
    """The right-hand side of an equation dy/dt = f(t, y)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, t: Any, y: Tensor, gain: float = 1.0) -> Tensor:
        shift = t.reshape(-1, 1) if isinstance(t, Tensor) else t
        return self.net(y + shift) * gain  # type: ignore[no-any-return]


class Critic(nn.Module):
    """Q(s, a), by two parts and their concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.action, self.head = nn.Linear(4, 6), nn.Linear(2, 6), nn.Linear(8, 1)
        with_weights(self, 1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        both = torch.relu(self.state(state) + self.action(action))
        return self.head(torch.cat([both, action], -1)).squeeze(-1)  # type: ignore[no-any-return]


class OfBatches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, batch: dict[str, Any], gain: float = 1.0) -> Tensor:
        return self.net(batch["image"] + batch.get("shift", 0.0)) * gain  # type: ignore[no-any-return]


ACTION = torch.tensor([0.5, -1.0])
INPUTS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], Callable[[Any, Tensor], Tensor]]] = {
    "the first that is not fixed": (Rates, {"fixed": {"t": 0.3}}, lambda m, x: m(0.3, x)),
    "a name": (Rates, {"input": "y", "fixed": {"t": torch.tensor(0.3)}}, lambda m, x: m(0.3, x)),
    "a place": (Rates, {"input": 1, "fixed": {0: 0.3}}, lambda m, x: m(0.3, x)),
    "a tensor of one sample": (Rates, {"fixed": {"t": torch.tensor([0.3])}}, lambda m, x: m(0.3, x)),
    "an integer": (Rates, {"fixed": {"t": torch.tensor([3])}}, lambda m, x: m(3, x)),
    "one with a default": (Rates, {"fixed": {"t": 0.3, "gain": 2.0}}, lambda m, x: m(0.3, x, 2.0)),
    "an action": (Critic, {"input": "state", "fixed": {"action": ACTION}},
                  lambda m, x: m(x, ACTION.double().expand(len(x), 2))),
    "an action with a batch axis": (Critic, {"fixed": {"action": ACTION[None]}},
                                    lambda m, x: m(x, ACTION.double().expand(len(x), 2))),
    "an entry of a dict": (OfBatches, {"input": "image"}, lambda m, x: m({"image": x})),
    "others in a dict": (OfBatches, {"input": "image", "fixed": {"shift": torch.ones(1, 4), "gain": 3.0}},
                         lambda m, x: m({"image": x, "shift": 1.0}, 3.0)),
    "any arguments": (lambda: Forward2(), {"input": 1, "fixed": {0: torch.ones(1, 4)}}, lambda m, x: m(1.0, x)),
}  # fmt: skip


class Forward2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, *values: Any) -> Any:
        return self.net(values[1] - values[0])


@pytest.mark.parametrize("case", INPUTS)
def test_one_input_is_chosen_and_the_others_are_fixed(case: str) -> None:
    make, choice, call = INPUTS[case]
    model = make().double().eval()
    network = trace(model, (4,), **choice)
    x = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(network.forward(x), call(model, x), rtol=1e-6, atol=1e-7)


def test_what_is_fixed_belongs_to_the_network_that_a_certificate_names() -> None:
    model = Critic().eval()
    choice: dict[str, Any] = {"fixed": {"action": torch.tensor([[0.1, 0.2]])}}
    report = lipguard.certify(model, (4,), **choice)
    assert lipguard.verify(report.certificate, model, **choice) == report.bound
    for other in ({"fixed": {"action": torch.tensor([[0.1, 0.3]])}}, {"fixed": {"action": 0.1}}, {}):
        with pytest.raises(CertificateError):
            lipguard.verify(report.certificate, model, **other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "choice", "words"),
    [
        (Rates, {}, r"forward also needs y. Fix them: fixed=\{'y': ...\}"),
        (Rates, {"input": "y"}, r"forward also needs t. Fix them: fixed=\{'t': ...\}"),
        (Rates, {"input": "z", "fixed": {"t": 0.1}}, r"arguments of forward \(t, y, gain\), but got 'z'"),
        (Rates, {"fixed": {"s": 0.1}}, r"arguments of forward \(t, y, gain\), but got 's'"),
        (Rates, {"input": "t", "fixed": {"t": 0.1}}, "fixed without the input 't'"),
        (Rates, {"input": 5, "fixed": {"t": 0.1}}, "but got 5"),
        (Rates, {"input": 1.5}, "a name, a place or None, but got 1.5"),
        (Rates, {"fixed": [0.1]}, r"fixed to be a dict .*but got \[0.1\]"),
        (Rates, {"fixed": {"t": 0.1, "y": 0.1, "gain": 1.0}}, "leave one of t, y, gain free"),
        (Critic, {"fixed": {"action": torch.ones(7)}}, "action"),
        (OfBatches, {"input": "picture"}, "KeyError: 'image'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_one_line(model: Any, choice: dict[str, Any], words: str) -> None:
    with pytest.raises((InvalidNetworkError, ConfigError), match=words) as caught:
        trace(model(), (4,), **choice)
    assert "\n" not in str(caught.value)


class Swapped(nn.Module):
    """Fixed arguments of three samples are none of one."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return x + other


def test_a_fixed_tensor_that_differs_by_sample_is_refused() -> None:
    with pytest.raises(LipguardError):
        trace(Swapped(), (4,), fixed={"other": torch.randn(3, 4)})


@pytest.mark.parametrize("training", [False, True])
def test_a_module_in_training_mode_is_read_as_it_is_in_eval_mode(training: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 2))
    model(torch.randn(9, 4))
    expected = trace(model.eval(), (4,)).digest
    assert trace(model.train(training), (4,)).digest == expected
    assert all(module.training is training for module in model.modules())
