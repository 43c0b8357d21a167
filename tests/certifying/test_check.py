"""`check` lists everything that is in the way, with its place, its reason and what mends it, and changes nothing."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.forward import Forward
from helpers.odd_models import ODD_MODELS
from helpers.photograph import photograph
from torch import Tensor, nn

import lipguard
from lipguard.errors import ConfigError, InvalidNetworkError, LipguardError


class Several(nn.Module):
    """Each of its lines that end in a number is in the way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)
        self.middle, self.recurrent = nn.Bilinear(16, 16, 16), nn.GRU(16, 16)

    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        assert torch.isfinite(y).all()
        y = self.middle(y, y)  # 1
        y = torch.special.bessel_j0(y)  # 2
        if y.abs().max() > 9:  # 3
            y = y / 2
        y = torch.relu(y)
        y, _ = self.recurrent(y)  # 4
        gain = 1.0 if float(y.max()) > 0 else 2.0  # 5
        z = self.last(y) * gain
        return z, z.sign(), torch.fft.fft(z)  # 6


def numbered() -> list[int]:
    source, start = inspect.getsourcelines(Several)
    return [start + k for k, line in enumerate(source) if "  # " in line]


def test_everything_is_listed_in_order_with_its_line() -> None:
    model = Several().train()
    before = photograph(model)
    found = lipguard.check(model, (8,), output=0)
    assert photograph(model) == before
    assert not found.ok
    assert [own.line for own in found.findings] == [f"{__file__}:{line}" for line in numbered()[:5]]
    assert [own.path for own in found.findings] == [
        "middle", "forward (function special_bessel_j0)", "the model itself", "recurrent", "the model itself",
    ]  # fmt: skip
    for own, reason in zip(found.findings, ("Bilinear", "bessel", "control flow", "GRU", "number"), strict=True):
        assert reason in own.reason
        assert own.remedy[0].isupper()
        assert own.remedy.endswith(".")
        assert "\n" not in str(own)
    assert [own.path for own in found.layers] == ["first", "forward (function relu)", "last"]
    assert [own.path for own in found.costly] == ["first", "forward (function relu)", "last"]


def test_its_words_have_all_of_it() -> None:
    found = lipguard.check(Several(), (8,))
    said = str(found)
    assert said.startswith("7 things are in the way of a bound; 3 layers with 16 neurons can be read\n")
    for own in found.findings:
        assert own.path in said
        assert own.line in said
        assert own.reason in said
        assert own.remedy in said
    assert "those that cost most:" in said
    assert found.findings[-1].remedy == "Choose one, such as output=0."


def test_a_model_that_can_be_read_has_nothing_in_the_way() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    found = lipguard.check(model, (1, 8, 8))
    assert found.ok
    assert not found.findings
    assert [(own.path, own.neurons) for own in found.layers] == [("0", 0), ("1", 144), ("2", 0), ("3", 0)]
    assert [own.path for own in found.costly] == ["0", "1", "3"]
    assert str(found).startswith("nothing is in the way of a bound; 4 layers with 144 neurons can be read")


BROKEN: dict[str, tuple[nn.Module, tuple[int, ...], str]] = {
    "a shape that does not fit": (nn.Sequential(nn.Linear(8, 2)), (7,), "0"),
    "no numbers yet": (nn.Sequential(nn.LazyLinear(3)), (4,), "0.weight"),
    "on no device": (nn.Linear(4, 2, device="meta"), (4,), "weight"),
    "nan": (nn.Sequential(nn.Linear(4, 2).requires_grad_(False).apply(lambda m: m.weight.fill_(torch.nan))), (4,), "0"),
    "several inputs": (nn.Bilinear(4, 4, 2), (4,), "the model itself"),
    "random": (Forward(lambda m, x: x + torch.rand(())), (4,), "the model itself"),
    "in place": (Forward(lambda m, x: (x.relu_(), x.sum(1))[1]), (4,), "forward (method relu_)"),
    "a hook": (nn.Sequential(nn.Linear(4, 4)), (4,), "0"),
    "code that fails": (Forward(lambda m, x: m.nothing(x)), (4,), "the model itself"),
    "nothing returned": (Forward(lambda m, x: None), (4,), "the model itself"),
    "layer norms": (nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2), nn.ReLU()), (4,), "1"),
    "batch axis": (Forward(lambda m, x: x.flatten()), (4,), "forward (method flatten)"),
}  # fmt: skip
BROKEN["a hook"][0][0].register_forward_hook(lambda module, args, output: 2 * output)  # type: ignore[index]


@pytest.mark.parametrize("name", BROKEN)
def test_it_raises_for_no_model(name: str) -> None:
    model, shape, path = BROKEN[name]
    with pytest.raises(LipguardError, match=r"lipguard\.check"):
        lipguard.certify(model, shape)
    found = lipguard.check(model, shape)
    assert not found.ok
    assert found.findings[0].path == path
    assert all(own.reason and own.remedy for own in found.findings)


@pytest.mark.parametrize("name", ODD_MODELS)
def test_it_agrees_with_certify_and_leaves_models_as_they_were(name: str) -> None:
    torch.manual_seed(0)
    model = ODD_MODELS[name]()
    before = photograph(model)
    found = lipguard.check(model, (4,))
    assert photograph(model) == before
    try:
        lipguard.plan(model, (4,))
    except LipguardError:
        assert not found.ok
    else:
        assert found.ok


def test_all_of_many_refused_layers_are_found() -> None:
    layers = [layer for _ in range(5) for layer in (nn.Linear(4, 4), Forward(lambda m, x: F.gumbel_softmax(x)))]
    found = lipguard.check(nn.Sequential(*layers), (4,))
    assert {own.path.partition(" ")[0] for own in found.findings} >= {"1", "3", "5", "7", "9"}


def test_bad_arguments_are_refused() -> None:
    model = nn.Linear(4, 2)
    with pytest.raises(InvalidNetworkError, match="Module, but got str"):
        lipguard.check("net", (4,))  # type: ignore[arg-type]
    with pytest.raises(InvalidNetworkError, match="input_shape"):
        lipguard.check(model, (0,))
    with pytest.raises(ConfigError, match="returns one tensor"):
        lipguard.check(model, (4,), output=1)


def test_a_refusal_is_one_line_that_points_to_it() -> None:
    with pytest.raises(LipguardError) as caught:
        lipguard.certify(Several(), (8,), output=0)
    assert str(caught.value).endswith("(`lipguard.check` lists everything that is in the way.)")
    assert str(caught.value).count("lipguard.check") == 1
    assert "\n" not in str(caught.value)


class TwoGates(nn.Module):
    def __init__(self, *between: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.between = nn.Sequential(*between)

    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.sigmoid(self.first(x))  # 1
        y = self.between(y)
        return torch.exp(self.second(y)) * y  # 2


def test_products_without_a_constant_are_in_the_way_unless_a_domain_bounds_them() -> None:
    found = lipguard.check(TwoGates(), (4,))
    assert [(own.path, own.line[-3:]) for own in found.findings] == [
        ("forward (function mul)", own_line("# 1", TwoGates)),
        ("forward (function exp)", own_line("# 2", TwoGates)),
        ("forward (function mul)", own_line("# 2", TwoGates)),
    ]
    assert all("domain" in own.remedy for own in found.findings)
    with pytest.raises(LipguardError):
        lipguard.certify(TwoGates(), (4,))
    assert lipguard.check(TwoGates(), (4,), domain=lipguard.Box(-1, 1)).ok
    with pytest.raises(ConfigError, match="domain"):
        lipguard.check(TwoGates(), (4,), domain=3)  # type: ignore[arg-type]


def test_they_are_listed_beside_what_cannot_be_read_in_order() -> None:
    found = lipguard.check(TwoGates(nn.Hardshrink()), (4,))
    assert [own.path for own in found.findings] == [
        "forward (function mul)", "between.0", "forward (function exp)", "forward (function mul)",
    ]  # fmt: skip


def own_line(mark: str, cls: type) -> str:
    lines, first = inspect.getsourcelines(cls)
    return str(first + next(k for k, line in enumerate(lines) if line.rstrip().endswith(mark))).rjust(3)[-3:]
