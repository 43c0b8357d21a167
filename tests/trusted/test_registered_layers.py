"""Layers of a user's own: what is said of them is used, and what samples disprove is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from helpers.forward import Forward
from helpers.networks import MaxMin
from helpers.sandwich import assert_sandwich
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import lipguard
from lipguard.errors import ConfigError, InvalidNetworkError, UnsupportedLayerError
from lipguard.trusted.layers import Activation, Linear
from lipguard.trusted.reading.own import _SAMPLED
from lipguard.trusted.reading.private import PrivateCopy
from lipguard.trusted.reading.table import TABLE
from lipguard.trusted.reading.trace import trace


class Swishy(nn.Module):
    """Slopes between 0 and 2."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sinc(x / 2)


class Householder(nn.Module):
    """Pairs of channels are reflected where they are on the far side of a line."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.angle = nn.Parameter(torch.linspace(0.1, 3.0, channels // 2))

    def forward(self, x: Tensor) -> Tensor:
        pairs = x.unflatten(1, (-1, 2))
        v = torch.stack([torch.sin(self.angle / 2), -torch.cos(self.angle / 2)], -1)
        along = (pairs * v).sum(-1, keepdim=True)
        return torch.where(along > 0, pairs - 2 * along * v, pairs).flatten(1, 2)


class Fourier(nn.Module):
    """The real part of a transform, shifted."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x.to(torch.complex128), norm="ortho").real.to(x.dtype) + 1.0


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    TABLE.own.clear()


def test_an_elementwise_function() -> None:
    model = nn.Sequential(nn.Linear(4, 6), Swishy(), nn.Linear(6, 3)).eval()
    with pytest.raises(UnsupportedLayerError, match=r"1 .*sinc.*lipguard\.register"):
        lipguard.certify(model, (4,))
    lipguard.register(Swishy, slope=(0.0, 2.0))
    report = assert_sandwich(model, (4,))
    assert report.bound < 0.99 * report.product_bound


@pytest.mark.parametrize("layer", [MaxMin, lambda: Householder(6)])
def test_one_lipschitz_networks_have_a_bound_of_one(layer: object) -> None:
    lipguard.register(MaxMin, group=2)
    lipguard.register(Householder, group=2)
    torch.manual_seed(0)
    layers = [m for _ in range(3) for m in (parametrizations.orthogonal(nn.Linear(6, 6)), layer())]  # type: ignore[operator]
    report = assert_sandwich(nn.Sequential(*layers).eval(), (6,))
    assert 1 - 1e-5 <= report.bound <= 1.001


def test_sorting_in_images() -> None:
    lipguard.register(MaxMin, group=2)
    layers = [nn.Conv2d(1, 4, 3), MaxMin(), nn.Conv2d(4, 2, 3), MaxMin(), nn.Flatten(), nn.Linear(8, 2)]
    report = assert_sandwich(nn.Sequential(*layers).eval(), (1, 6, 6))
    assert report.bound < report.product_bound
    assert lipguard.verify(report.certificate, nn.Sequential(*layers).eval()) == report.bound


def test_an_affine_layer() -> None:
    lipguard.register(Fourier, affine=True)
    report = assert_sandwich(nn.Sequential(nn.Linear(5, 5), nn.ReLU(), Fourier(), nn.Linear(5, 2)).eval(), (5,))
    assert report.bound < 1.001 * report.product_bound


@pytest.mark.parametrize(
    ("layer", "said", "message"),
    [
        (Swishy, {"slope": (0.0, 1.5)}, "slopes in .* it is not"),
        (MaxMin, {"slope": (-1.0, 1.0)}, "element-wise .* it is not"),
        (Swishy, {"group": 2}, "groups of 2, and samples show that it is not"),
        (MaxMin, {"affine": True}, "affine, and samples show"),
        (MaxMin, {"group": 4}, "do not fall into groups of 4"),
    ],
)
def test_what_samples_disprove_is_refused(layer: type[nn.Module], said: dict[str, object], message: str) -> None:
    lipguard.register(layer, **said)  # type: ignore[arg-type]
    with pytest.raises(InvalidNetworkError, match=f"1: .*{message}"):
        lipguard.certify(nn.Sequential(nn.Linear(4, 6), layer()).eval(), (4,))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (MaxMin, {}), (MaxMin, {"group": 2, "affine": True}), (MaxMin, {"group": 0}), (MaxMin, {"group": True}),
        (Swishy, {"slope": (1.0, 0.0)}), (Swishy, {"slope": (0.0, float("inf"))}), (nn.ReLU, {"slope": (0.0, 0.5)}),
        (3, {"group": 2}),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(module: type[nn.Module], said: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        lipguard.register(module, **said)  # type: ignore[arg-type]


def test_a_class_may_be_registered_again() -> None:
    lipguard.register(Swishy, slope=(0.0, 1.0))
    lipguard.register(Swishy, slope=(0.0, 2.0))
    assert lipguard.certify(nn.Sequential(nn.Linear(2, 2), Swishy()).eval(), (2,)).bound > 0


class Own(nn.Module):
    """A function given by the test, with a weight of float32."""

    call: Callable[[Own, Tensor], Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0001, -0.3, 1e-9]))

    def forward(self, x: Tensor) -> Tensor:
        return type(self).call(self, x)


def own(call: Callable[[Own, Tensor], Tensor]) -> type[Own]:
    return type("Own", (Own,), {"call": call})


AFFINE: dict[str, Callable[[Own, Tensor], Tensor]] = {
    "a large shift": lambda m, x: x * m.w + 1e13,
    "a shift before the weights": lambda m, x: (x + 1e13) * m.w,
    "without a derivative": lambda m, x: (x * m.w + 1e13).detach(),
    "with another derivative": lambda m, x: x * m.w + 1e13 + (x * m.w - (x * m.w).detach()) / 3,
    "an enormous shift": lambda m, x: x * m.w - 1e200,
}


@pytest.mark.parametrize("case", AFFINE)
def test_a_matrix_is_read_behind_a_shift(case: str) -> None:
    layer = own(AFFINE[case])
    lipguard.register(layer, affine=True)
    network = trace(layer().eval(), (3,))
    (found,) = [node.layer for node in network.nodes if isinstance(node.layer, Linear)]
    assert torch.equal(found.weight, torch.diag(layer().w.detach().double()))
    assert lipguard.certify(layer().eval(), (3,)).bound >= float(layer().w.detach()[0])


def test_what_is_read_counts_with_what_samples_do_not_show() -> None:
    lipguard.register(Fourier, affine=True)
    network = trace(Fourier().eval(), (5,))
    (found,) = [node.layer for node in network.nodes if isinstance(node.layer, Linear)]
    assert found.weight_ulps * 2.0**-53 >= 2 * _SAMPLED
    assert lipguard.certify(Fourier().eval(), (5,)).bound >= 1 + _SAMPLED


NOT_AFFINE: dict[str, Callable[[Own, Tensor], Tensor]] = {
    "a bend behind a shift": lambda m, x: x * m.w + 0.5 * torch.relu(x) + 1e13,
    "a small bend": lambda m, x: x * m.w + 1e-9 * torch.relu(x),
    "a small bend that neither derivatives nor unit vectors show": lambda m, x: x + 1e-9 * torch.relu(-x),
    "a bend far away that they do not show": lambda m, x: x - torch.relu(-x - 1e9),
    "a bend next to zero": lambda m, x: x + x.clamp(-1e-5, 1e-5),
    "a bend far away": lambda m, x: x + torch.relu(x - 1e9),
    "steps": lambda m, x: (x * m.w + 1e13) - 1e13,
    "single precision": lambda m, x: (x.float() * m.w.float()).double(),
    "another sample": lambda m, x: x + 0.01 * x.roll(1, 0),
}


@pytest.mark.parametrize("case", NOT_AFFINE)
def test_what_varies_otherwise_is_not_affine(case: str) -> None:
    layer = own(NOT_AFFINE[case])
    lipguard.register(layer, affine=True)
    with pytest.raises(InvalidNetworkError, match="affine, and samples show that it is not"):
        trace(layer().eval(), (3,))


@pytest.mark.parametrize(
    ("said", "call"),
    [
        ({"affine": True}, lambda m, x: x + math.inf),
        ({"affine": True}, lambda m, x: x / 0.0 * 0.0),
        ({"affine": True}, lambda m, x: x.sum()),
        ({"slope": (0.0, 1.0)}, lambda m, x: x / (x - x)),
        ({"group": 3}, lambda m, x: x * math.nan),
    ],
)
def test_what_is_not_finite_is_refused(said: dict[str, object], call: Callable[[Own, Tensor], Tensor]) -> None:
    layer = own(call)
    lipguard.register(layer, **said)  # type: ignore[arg-type]
    with pytest.raises(InvalidNetworkError, match="gives no finite tensor of as many samples"):
        trace(layer().eval(), (3,))


def _steep_at_zero(m: Own, x: Tensor) -> Tensor:
    return x + x.clamp(-1e-6, 1e-6)


def _bump_at_zero(m: Own, x: Tensor) -> Tensor:
    """Of no consequence but for pairs that are next to zero."""
    return x + torch.sign(x) * torch.minimum(x.abs(), 2e-6 - x.abs()).clamp(min=0)


WRONG: dict[str, tuple[dict[str, object], Callable[[Own, Tensor], Tensor]]] = {
    "steep next to zero": ({"slope": (0.0, 1.0)}, _steep_at_zero),
    "a bump next to zero": ({"slope": (0.0, 1.0)}, _bump_at_zero),
    "steep behind a shift": ({"slope": (0.0, 1.0)}, lambda m, x: 1.01 * x + 1e9),
    "a little steep": ({"slope": (0.0, 1.0)}, lambda m, x: x * (1 + 1e-6)),
    "of a neighbour": ({"slope": (0.0, 1.0)}, lambda m, x: 0.9 * x + 1e-7 * x.roll(1, 1)),
    "a group that is steep next to zero": ({"group": 3}, _steep_at_zero),
    "a group with another's entries": ({"group": 1}, lambda m, x: 0.5 * x + 1e-7 * x.roll(1, 1)),
    "a group behind a shift": ({"group": 3}, lambda m, x: 1.01 * x + 1e9),
}


@pytest.mark.parametrize("case", WRONG)
def test_samples_are_tried_relative_to_what_varies(case: str) -> None:
    said, call = WRONG[case]
    layer = own(call)
    lipguard.register(layer, **said)  # type: ignore[arg-type]
    with pytest.raises(InvalidNetworkError, match="samples show that it is not"):
        trace(layer().eval(), (3,))


RIGHT: dict[str, tuple[dict[str, object], Callable[[Own, Tensor], Tensor]]] = {
    "behind a shift": ({"slope": (0.0, 2.0)}, lambda m, x: x + torch.sin(x) + 1e6),
    "flat": ({"slope": (0.0, 0.0)}, lambda m, x: torch.ones_like(x)),
    "falling": ({"slope": (-1.0, -1.0)}, lambda m, x: 1e6 - x),
    "turned": ({"group": 3}, lambda m, x: x.roll(1, 1) + 1e6),
}


@pytest.mark.parametrize("case", RIGHT)
def test_what_is_right_is_taken_and_noted(case: str) -> None:
    said, call = RIGHT[case]
    layer = own(call)
    lipguard.register(layer, **said)  # type: ignore[arg-type]
    network = trace(nn.Sequential(layer()).eval(), (3,))
    assert any(isinstance(node.layer, Activation) for node in network.nodes)
    (note,) = network.notes
    assert note.startswith("0: Own as registered: ")


COMPUTED: dict[str, Callable[[], nn.Module]] = {
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 3)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
    "spectral norm by a hook": lambda: torch.nn.utils.spectral_norm(nn.Linear(4, 3)),
    "a pruning mask": lambda: prune.random_unstructured(nn.Linear(4, 3), "weight", 0.5),
    "a product of parameters": lambda: Forward(
        lambda m, x: F.linear(x, m.left @ m.right),
        left=nn.Parameter(torch.randn(3, 5)), right=nn.Parameter(torch.randn(5, 4)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", COMPUTED)
def test_computed_weights_are_those_of_double_precision_and_said_to_be(case: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(COMPUTED[case]()).eval()
    report = lipguard.certify(model, (4,))
    assert any("computed weights, with the values that float64 gives in eval mode" in note for note in report.notes)
    assert "computed weights" in str(report)
    double = PrivateCopy(model, torch.float64).module
    exact = torch.autograd.functional.jacobian(double, torch.zeros(4, dtype=torch.float64))
    assert report.bound == pytest.approx(float(torch.linalg.matrix_norm(exact, 2)), rel=1e-8)
    assert lipguard.verify(report.certificate, model) == report.bound


def test_weights_that_are_held_have_no_note() -> None:
    model = nn.Sequential(
        nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.PReLU(4), nn.Linear(4, 2, bias=False)
    ).eval()
    assert lipguard.certify(model, (4,)).notes == ()
