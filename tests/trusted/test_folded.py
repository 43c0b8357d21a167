"""Batch axes that are folded with others: (B, k, ..) as (B k, ..), and back, as networks of windows and heads do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.forward import Forward
from helpers.sandwich import assert_between, assert_sandwich, drawn
from torch import Tensor, nn

import lipguard
from lipguard import DCPConfig
from lipguard.errors import InvalidNetworkError, LipguardError, UnsupportedLayerError
from lipguard.proposing.relaxation import LiveNetwork
from lipguard.trusted import layers
from lipguard.trusted.reading import folding
from lipguard.trusted.reading.trace import trace


def parts(function: Callable[[Any, Tensor], Tensor], *, back: bool = True, **attributes: Any) -> Forward:
    """A function of each of the entries along axis 1."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = function(m, x.flatten(0, 1))
        return y.reshape(len(x), x.shape[1], *y.shape[1:]) if back else y.reshape(len(x), -1)

    torch.manual_seed(0)
    return Forward(forward, **attributes).double().eval()


def _mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double().eval()


def _convolution(bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, bias=bias).double()


# shape of one of four parts, what acts on each, and which modules it has
ON_PARTS: dict[str, tuple[tuple[int, ...], Callable[[Any, Tensor], Tensor], dict[str, Callable[[], nn.Module]]]] = {
    "linear": ((3,), lambda m, x: m.a(x), {"a": lambda: nn.Linear(3, 2)}),
    "mlp": ((3,), lambda m, x: m.a(x), {"a": _mlp}),
    "layer norm and gelu": ((4,), lambda m, x: F.gelu(m.a(x)) + x, {"a": lambda: nn.LayerNorm(4, eps=0.1)}),
    "written out": ((4,), lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1), {}),
    "silu, written out": ((3,), lambda m, x: x * torch.sigmoid(x), {}),
    "batch norm": ((2, 3, 3), lambda m, x: m.a(x), {"a": lambda: nn.BatchNorm2d(2)}),
    "convolution": ((2, 5, 4), lambda m, x: torch.relu(m.a(x)), {"a": _convolution}),
    "pooling": ((2, 4, 4), lambda m, x: F.max_pool2d(x, 2) - F.avg_pool2d(x, 2), {}),
    "turned": (
        (2, 3),
        lambda m, x: x.permute(2, 0, 1)[1:].permute(1, 2, 0).relu() + x.permute(2, 0, 1)[0][..., None],
        {},
    ),
    "pieces": ((4,), lambda m, x: torch.cat([y.tanh() for y in x.chunk(2, 1)][::-1], 1), {}),
    "padded and rolled": ((2, 3), lambda m, x: F.pad(x, (1, 2)).roll(1, 1).relu(), {}),
    "patches": ((2, 3, 3), lambda m, x: F.unfold(x, 2, padding=1).relu(), {}),
    "as another": ((2, 3), lambda m, x: F.relu(x.flatten(0, 1)).reshape_as(x), {}),
    "a constant": ((2, 3), lambda m, x: (x + torch.arange(3.0, dtype=x.dtype)).relu(), {}),
    "in two ways": ((2, 3), lambda m, x: (x + F.relu(x.flatten(0, 1)).view(-1, 2, 3)).sin(), {}),
    "largest": ((3,), lambda m, x: torch.maximum(2 * x - 1, -x), {}),
}


@pytest.mark.parametrize("name", ON_PARTS)
def test_the_bound_is_that_of_one_part(name: str) -> None:
    shape, function, made = ON_PARTS[name]
    torch.manual_seed(0)
    modules = {key: make().double().eval() for key, make in made.items()}
    one = lipguard.certify(Forward(function, **modules).eval(), shape).bound
    assert assert_sandwich(parts(function, **modules), (4, *shape)).bound == pytest.approx(one, rel=2e-3)


def test_a_matrix_on_parts_has_its_norm() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    found = assert_sandwich(parts(lambda m, x: x @ weight.double().T), (3, 2), exact=5.0)
    assert found.bound == pytest.approx(5.0, rel=1e-6)


def test_rules_that_look_back_see_one_part() -> None:
    network = trace(parts(lambda m, x: x * torch.sigmoid(x)), (4, 3))
    assert [node.layer.name for node in network.nodes if isinstance(node.layer, layers.Activation)] == ["silu"]
    assert not network.steep
    assert not trace(parts(ON_PARTS["written out"][1]), (4, 4)).steep


def test_what_comes_back_is_reshaped_and_no_more() -> None:
    network = trace(parts(lambda m, x: x.relu()), (4, 3))
    assert [type(node.layer) for node in network.nodes] == [layers.Input, layers.Activation]


class Windows(nn.Module):
    """Attention in windows of an image, as Swin has it, with a bias for every pair and a mask for every window."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 4)
        self.bias = nn.Parameter(torch.randn(2, 4, 4))
        self.register_buffer("mask", torch.randn(4, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        b, size, _, channels = x.shape
        side = size // 2
        windows = x.roll((1, 1), (1, 2)).view(b, side, 2, side, 2, channels).permute(0, 1, 3, 2, 4, 5)
        windows = windows.reshape(-1, 4, channels)
        q, k, v = self.qkv(windows).reshape(len(windows), 4, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
        weights = q @ k.transpose(-2, -1) + self.bias
        weights = weights.view(b, side**2, 2, 4, 4) + self.mask.unsqueeze(1).unsqueeze(0)
        weights = weights.view(-1, 2, 4, 4).softmax(-1)
        y = self.out((weights @ v).transpose(1, 2).reshape(len(windows), 4, channels))
        y = y.view(b, side, side, 2, 2, channels).permute(0, 1, 3, 2, 4, 5).reshape(b, size, size, channels)
        return y + x


def _heads(m: Any, x: Tensor) -> Tensor:
    """Heads in the place of samples, as where `bmm` is called."""
    b, n, c = x.shape
    q, k, v = (layer(x).view(b, n, 2, c // 2).transpose(1, 2).reshape(b * 2, n, c // 2) for layer in (m.q, m.k, m.v))
    y = torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)), -1), v)
    return y.view(b, 2, n, c // 2).transpose(1, 2).reshape(b, n, c)


def _heads_network() -> Forward:
    torch.manual_seed(0)
    return Forward(_heads, **{name: nn.Linear(4, 4) for name in "qkv"}).double().eval()


def _unfolded(m: Any, x: Tensor) -> Tensor:
    """Pixels at one place of all patches as tokens, and back, as MobileViT has it."""
    b, c, rows, columns = x.shape
    n = rows * columns // 4
    y = x.reshape(b * c * rows // 2, 2, columns // 2, 2).transpose(1, 2)
    y = y.reshape(b, c, n, 4).transpose(1, 3).reshape(b * 4, n, c)
    y = y + m.layer(y).relu()
    y = y.view(b, 4, n, c).transpose(1, 3).reshape(b * c * rows // 2, columns // 2, 2, 2).transpose(1, 2)
    return y.reshape(b, c, rows, columns)


def _unfolding_network() -> Forward:
    torch.manual_seed(0)
    return Forward(_unfolded, layer=nn.Linear(2, 2)).double().eval()


@pytest.mark.parametrize(("made", "shape"), [(Windows, (4, 4, 4)), (_heads_network, (3, 4))])
def test_attention_in_windows_and_of_heads(made: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model, domain = made().double().eval(), lipguard.Box(-1, 1)
    report = lipguard.certify(model, shape, DCPConfig(max_seconds=4), domain=domain)
    assert_between(model, report, domain.project(drawn(shape, 32)), domain=domain)


def test_unfolding_into_tokens() -> None:
    assert_sandwich(_unfolding_network(), (2, 4, 4))


@pytest.mark.parametrize("function", ["sum", "mean"])
def test_values_on_top_of_each_other_are_added(function: str) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return getattr(torch.stack([x, 2 * m.layer(x)]), function)(0)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    layer = nn.Linear(3, 3).double()
    whole = torch.eye(3, dtype=torch.float64) + 2 * layer.weight.detach()
    exact = float(torch.linalg.matrix_norm(whole, 2)) * (0.5 if function == "mean" else 1.0)
    assert_sandwich(Forward(forward, layer=layer).eval(), (3,), exact=exact)


def test_other_axes_of_them_may_be_reduced() -> None:
    model = Forward(lambda m, x: torch.stack([x, x.relu()], -4).sum((0, 2)))
    assert_sandwich(model, (3, 2))
    assert_sandwich(Forward(lambda m, x: torch.stack([x, x.relu()]).sum(2, keepdim=True)[1]), (3,))
    with pytest.raises(InvalidNetworkError, match="reduces the batch axis"):
        trace(Forward(lambda m, x: torch.stack([x, x.relu()]).sum(1)), (3,))


@pytest.mark.parametrize("padding", [(1, 0, 0, 1), (2, 1), (0, 0, 1, 2)])
def test_padding_with_minus_infinity_is_no_maximum(padding: tuple[int, ...]) -> None:
    model = Forward(lambda m, x: F.max_pool2d(F.pad(x, padding, value=-torch.inf), 3, 2))
    assert_sandwich(model, (1, 4, 5))
    assert_sandwich(parts(lambda m, x: model(x)), (2, 1, 4, 5))


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda m, x: F.pad(x, (1, 1), value=-torch.inf).relu(), "padded with -inf"),
        (lambda m, x: F.pad(x, (1, 1), value=torch.inf).relu(), "padding with inf"),
        (lambda m, x: F.max_pool2d(F.pad(x, (-1, 1), value=-torch.inf), 2), "padding with -inf"),
        (lambda m, x: F.max_pool2d(F.pad(x, (0, 0, 0, 0, 1, 0), value=-torch.inf), 2), "padded channels"),
    ],
)
def test_other_infinities_are_refused(function: Callable[[Any, Tensor], Tensor], why: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=why):
        trace(Forward(function), (2, 4, 4))


class Cache(nn.Module):
    """Computes what it needs in a buffer, in the first call; one that it changes in place differs in that call."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.register_buffer("held", torch.full((1,) if not in_place else (3,), 2.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            y = x * self.held
            self.held.fill_(1.0)
            return y
        if len(self.held) != x.shape[1]:
            self.held = torch.arange(1.0, 1 + x.shape[1]).to(x.dtype)
        return x * self.held


def test_a_buffer_may_be_a_cache() -> None:
    assert_sandwich(Cache(in_place=False).eval(), (3,), exact=3.0)


def test_the_first_call_is_the_same_function() -> None:
    with pytest.raises(InvalidNetworkError, match="does not reproduce"):
        trace(Cache(in_place=True).eval(), (3,))


class _Odd(nn.Module):
    """Registered below: with a slope that depends on the channel, which is axis 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.linspace(0, 1, x.shape[1], dtype=x.dtype).reshape(-1, *(1 for _ in x.shape[2:]))


lipguard.register(_Odd, slope=(0.0, 1.0))

REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "beside a plain value": (lambda m, x: torch.cat([x.flatten(0, 1), x.sum(1)]), "alike"),
    "another fold": (lambda m, x: torch.cat([x.flatten(0, 1)[:, :2], x.view(-1, 2, 4)]), "alike"),
    "left folded": (lambda m, x: x.flatten(0, 1).relu(), "mixes the batch axis"),
    "samples come second": (lambda m, x: x.transpose(0, 1).reshape(-1, 4, 4).view(len(x), 4, 4, 4), "batch axis"),
    "the parts are added": (lambda m, x: x.flatten(0, 1).sum(0), "reduces the batch axis"),
    "a constant for every part": (
        lambda m, x: (x.flatten(0, 1) * torch.arange(4.0 * len(x)).view(-1, 1, 1)).view(x.shape), "has a batch axis",
    ),
    "a number of samples": (lambda m, x: x.reshape(12, 4, 4).relu().view(-1, 4, 4, 4), "batch"),
    "a layer of one's own": (lambda m, x: m.own(x.flatten(0, 1)).view(x.shape), "folded with others"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_act_on_parts_alike_is_refused(name: str) -> None:
    function, why = REFUSED[name]
    with pytest.raises(LipguardError, match=why):
        trace(Forward(function, own=_Odd()), (4, 4, 4))


def test_a_convolution_of_too_many_images_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = parts(ON_PARTS["convolution"][1], a=_convolution())
    monkeypatch.setattr(folding, "_MOST_WEIGHTS", 3 * _convolution().weight.numel())
    trace(model, (3, 2, 5, 4))
    with pytest.raises(UnsupportedLayerError, match="a convolution of 4 images"):
        trace(model, (4, 2, 5, 4))


def test_all_that_is_in_the_way_of_parts_is_found() -> None:
    found = lipguard.check(parts(lambda m, x: x.sign().relu().round() + 1), (4, 3)).findings
    assert [finding.path for finding in found] == ["forward (method sign)", "forward (method round)"]
    model = Forward(lambda m, x: x.flatten(0, 1).sign().view(x.shape) + x.round())
    assert [f.path for f in lipguard.check(model, (4, 3)).findings] == [
        "forward (method sign)",
        "forward (method round)",
    ]


def test_live_weights_are_read_alike() -> None:
    model = parts(lambda m, x: m.b(torch.relu(m.a(x)).flatten(1)), a=_convolution(), b=nn.Linear(24, 2))
    x = torch.randn(2, 4, 2, 5, 4, dtype=torch.float64)
    live = LiveNetwork(model, (4, 2, 5, 4))()
    assert torch.allclose(live.forward(x), model(x))
    live.forward(x).sum().backward()
    assert all(own.grad is not None for own in model.parameters())
