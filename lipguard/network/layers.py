"""The layer values that a traced network is made of.

A layer is affine (its linear part acts on differences of inputs, its bias only moves the function) or a
slope-restricted activation; `lipguard.network.lowering` is the table that lowers torch operations to these.
Weights are float64 on the CPU: the conversion from a narrower float is exact.

Whatever is known of a layer is stated by its class, or by a row for its class in a table (matrices, norms, tiles).
There are no defaults, for one that fits most layers is wrong for the next.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import numbers
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from lipguard.network import slopes

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Layer(abc.ABC):
    """An operation of the network on tensors of shape (batch, *shape).

    Every kind derives from this class and states all that is asked of it. A class derived from a kind is one of that
    kind in every table, and may change none of what it states.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        stated = {"linear", "forward", "absolute", "roundings", "adjoint_roundings"}
        if Layer not in cls.__bases__ and stated & set(vars(cls)):
            raise TypeError(f"{cls.__name__} is no longer a {cls.__bases__[0].__name__}: derive it from Layer.")

    @abc.abstractmethod
    def linear(self, *inputs: Tensor) -> Tensor:
        """The linear part: how differences of the inputs map to differences of the output."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """The layer itself, bias included."""
        return self.linear(*inputs)

    @abc.abstractmethod
    def absolute(self) -> Layer:
        """The same layer with the magnitudes of its weights: it carries entrywise error bounds forward."""

    @abc.abstractmethod
    def roundings(self) -> int:
        """How many relative roundings one output of `linear` collects, errors of the weights included."""

    @abc.abstractmethod
    def adjoint_roundings(self) -> int:
        """The same for one output of the transposed map."""


def no_row(layer: Layer, table: str) -> NotImplementedError:
    """The error to raise where a table does not know a kind of layer."""
    return NotImplementedError(f"{type(layer).__name__} has no row in the table of {table}. Add one.")


@dataclass(frozen=True, eq=False)
class Input(Layer):
    """The network's input, as it is; it has no inputs of its own."""

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    def absolute(self) -> Input:
        return self

    def roundings(self) -> int:
        return 0

    def adjoint_roundings(self) -> int:
        return 0


@dataclass(frozen=True, eq=False)
class Conv2d(Layer):
    """Cross-correlation with zero padding (left, right, top, bottom); negative padding crops.

    `weight_ulps` counts the roundings in the weights themselves, where they are not a float tensor of the user's
    (an average pooling is a depthwise convolution whose weight 1/n is rounded once).
    """

    weight: Tensor  # (out, in / groups, kernel rows, kernel columns)
    bias: Tensor | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    weight_ulps: int = 0

    def linear(self, *inputs: Tensor) -> Tensor:
        return self._convolve(inputs[0], None)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._convolve(inputs[0], self.bias)

    def _convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        weight = self.weight.to(x)
        bias = None if bias is None else bias.to(x)
        return F.conv2d(F.pad(x, self.padding), weight, bias, self.stride, 0, self.dilation, self.groups)

    def absolute(self) -> Conv2d:
        return dataclasses.replace(self, weight=self.weight.abs(), bias=None)

    def roundings(self) -> int:
        return self.weight[0].numel() + self.weight_ulps

    def adjoint_roundings(self) -> int:
        return self.weight[:, 0].numel() + self.weight_ulps


@dataclass(frozen=True, eq=False)
class Linear(Layer):
    """A matrix on the last axis. `note` says which function it stands for, where that is not plain."""

    weight: Tensor  # (out, in)
    bias: Tensor | None = None
    weight_ulps: int = 0
    note: str = ""

    def linear(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], self.weight.to(inputs[0]))

    def forward(self, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        return F.linear(x, self.weight.to(x), None if self.bias is None else self.bias.to(x))

    def absolute(self) -> Linear:
        return dataclasses.replace(self, weight=self.weight.abs(), bias=None)

    def roundings(self) -> int:
        return self.weight.shape[1] + self.weight_ulps

    def adjoint_roundings(self) -> int:
        return self.weight.shape[0] + self.weight_ulps


@dataclass(frozen=True, eq=False)
class Scale(Layer):
    """Entrywise multiplication: batch norm in eval mode, or the varying divisor of a pooling at the border."""

    scale: Tensor  # broadcasts against (batch, *shape)
    bias: Tensor | None = None
    weight_ulps: int = 0
    bias_terms: Tensor | None = None  # the sum of the magnitudes that a bias was computed from, if it was

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * self.scale.to(inputs[0])

    def forward(self, *inputs: Tensor) -> Tensor:
        y = self.linear(*inputs)
        return y if self.bias is None else y + self.bias.to(y)

    def absolute(self) -> Scale:
        return dataclasses.replace(self, scale=self.scale.abs(), bias=None, bias_terms=None)

    def roundings(self) -> int:
        return 1 + self.weight_ulps

    def adjoint_roundings(self) -> int:
        return self.roundings()


@dataclass(frozen=True, eq=False)
class Pad(Layer):
    """Zero padding of the last axes, in the order of `torch.nn.functional.pad`; negative padding crops."""

    padding: tuple[int, ...]

    def linear(self, *inputs: Tensor) -> Tensor:
        return F.pad(inputs[0], self.padding)

    def absolute(self) -> Pad:
        return self

    def roundings(self) -> int:
        return 0

    def adjoint_roundings(self) -> int:
        return 0


@dataclass(frozen=True, eq=False)
class Reshape(Layer):
    """A new shape for the same entries in the same order."""

    shape: Shape

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0].reshape(-1, *self.shape)

    def absolute(self) -> Reshape:
        return self

    def roundings(self) -> int:
        return 0

    def adjoint_roundings(self) -> int:
        return 0


@dataclass(frozen=True, eq=False)
class Pick(Layer):
    """Entries of the input, each wherever it is wanted, and zeros: whatever only moves, repeats or drops entries.

    `index` has the shape of the output and points into the flat input; -1 stands for a zero.
    """

    index: Tensor  # int64

    def linear(self, *inputs: Tensor) -> Tensor:
        x = F.pad(inputs[0].flatten(1), (1, 0))
        return x.index_select(1, self.index.to(x.device).flatten() + 1).reshape(-1, *self.index.shape)

    @property
    def most(self) -> int:
        """How often an entry is picked, at most."""
        picked = self.index[self.index >= 0]
        return int(torch.bincount(picked).max()) if picked.numel() else 0

    def absolute(self) -> Pick:
        return self

    def roundings(self) -> int:
        return 0

    def adjoint_roundings(self) -> int:
        return max(self.most - 1, 0)


def picks(layer: Layer) -> bool:
    """Whether every entry of the output is one of the input, or zero."""
    if isinstance(layer, Conv2d):  # of one tap
        each = len(layer.weight) == layer.groups == layer.weight.numel()
        return each and bool((layer.weight == 1).all()) and not layer.weight_ulps
    return isinstance(layer, (Pick, Pad))


@dataclass(frozen=True, eq=False)
class Add(Layer):
    """The sum of two or more branches."""

    def linear(self, *inputs: Tensor) -> Tensor:
        return torch.stack(inputs).sum(0) if len(inputs) > 2 else inputs[0] + inputs[1]

    def absolute(self) -> Add:
        return self

    def roundings(self) -> int:
        return 1  # for every input beyond the first; who counts knows how many there are

    def adjoint_roundings(self) -> int:
        return 1


@dataclass(frozen=True, eq=False)
class Mosaic(Layer):
    """Its inputs as the tiles of one image, on the last two axes: row by row, `columns` of them in a row."""

    columns: int

    def linear(self, *inputs: Tensor) -> Tensor:
        rows = [torch.cat(inputs[i : i + self.columns], -1) for i in range(0, len(inputs), self.columns)]
        return torch.cat(rows, -2)

    def absolute(self) -> Mosaic:
        return self

    def roundings(self) -> int:
        return 0

    def adjoint_roundings(self) -> int:
        return 0

    def apart(self, shapes: Sequence[Shape], values: Tensor) -> list[Tensor]:
        """The part of `values`, shape (*grid), that lies on each of the tiles."""
        columns = [shape[-1] for shape in shapes[: self.columns]]
        rows = [shape[-2] for shape in shapes[:: self.columns]]
        return [part for row in torch.split(values, rows, -2) for part in torch.split(row, columns, -1)]


@dataclass(frozen=True, eq=False)
class Activation(Layer):
    """An element-wise function whose difference quotients all lie in [alpha, beta].

    It has no linear part: what stands in for it is the caller's choice (a free variable, a slope, a relaxation).
    The function has a name of its own, or is a partial of one that has, so that networks travel to other processes.

    With a `group` above one, the last axis of the value, of that size, is a group: what is known is that its answer is
    no longer than its question, |b| <= |a| (alpha = -1, beta = 1), entry by entry nothing. So all entries of a group
    have one multiplier; t (|a|^2 - |b|^2) >= 0 says no more than that.

    `within` gives the slopes of entries that stay in intervals, see `slopes`; None where [alpha, beta] has to do.
    `note` says which function is meant, where that is not plainly what torch computes; it is no part of the function.

    Raises:
        ValueError: slopes that are not finite, or not in order; a group of other slopes than [-1, 1].
    """

    name: str
    alpha: float
    beta: float
    function: Callable[[Tensor], Tensor]
    group: int = 1
    within: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not -math.inf < self.alpha <= self.beta < math.inf:
            raise ValueError(f"{self.name}: expected finite slopes in order, but got [{self.alpha}, {self.beta}].")
        if self.group < 1 or (self.group > 1 and (self.alpha, self.beta) != (-1, 1)):
            raise ValueError(f"{self.name}: expected groups with slopes in [-1, 1], but got {self.group} entries with "
                             f"[{self.alpha}, {self.beta}].")  # fmt: skip

    def linear(self, *inputs: Tensor) -> Tensor:
        raise NotImplementedError(f"{self.name} has no linear part.")

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(inputs[0])

    def absolute(self) -> Activation:
        return self  # what is between activations is linear; their slopes are bounded apart

    def roundings(self) -> int:
        return 0

    def adjoint_roundings(self) -> int:
        return 0

    @property
    def lipschitz(self) -> float:
        """The largest magnitude of a slope."""
        return max(abs(self.alpha), abs(self.beta))


class Copies(Activation):
    """Copies of the entries, of which only the length is known: the identity, as one of slopes in [-1, 1].

    A class of its own, for other activations with these slopes, |x| and groups, are no copies of what they read.
    """


def copies() -> Copies:
    """Copies of whatever is read."""
    return Copies("copies", -1.0, 1.0, _itself)


class ParameterError(ValueError):
    """A parameter of an activation with which it has no Lipschitz constant, or none that is known here."""


def _number(layer: str, parameter: str, value: object) -> float:
    """A parameter as the float that it is.

    Raises:
        ParameterError: it is not finite.
        TypeError: it is no number.
    """
    if isinstance(value, Tensor) and _is_scalar(value):
        value = value.detach().item()
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{parameter} of {layer} is a {type(value).__name__}, where a number is expected")
    if not math.isfinite(value):
        raise ParameterError(f"{parameter} of {layer} is {float(value)}, which is no number. Set a finite one.")
    return float(value)


def _limits(layer: str, low: object, high: object, names: tuple[str, str]) -> tuple[float, float]:
    """Two limits in order; the lower one may be -inf, and the upper one inf."""
    least = -math.inf if _is_infinite(low, -math.inf) else _number(layer, names[0], low)
    most = math.inf if _is_infinite(high, math.inf) else _number(layer, names[1], high)
    if least > most:
        raise ParameterError(
            f"{layer} has {names[0]}={least:g} above {names[1]}={most:g}, which is no interval. Exchange them."
        )
    return least, most


def _is_infinite(value: object, infinity: float) -> bool:
    return bool(value == infinity) if isinstance(value, numbers.Real) or _is_scalar(value) else False


def _is_scalar(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()


def _stepwise(kinks: tuple[float, ...], pieces: tuple[float, ...]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return partial(slopes.stepwise, kinks=kinks, slopes=pieces)


def _itself(x: Tensor) -> Tensor:
    return x


def relu() -> Activation:
    """max(x, 0): slopes in [0, 1]."""
    return Activation("relu", 0.0, 1.0, torch.relu, within=_stepwise((0.0,), (0.0, 1.0)))


def leaky_relu(negative_slope: float = 0.01) -> Activation:
    """x where positive, negative_slope * x elsewhere: slopes between the two."""
    slope = _number("LeakyReLU", "negative_slope", negative_slope)
    low, high = sorted((slope, 1.0))
    within = _stepwise((0.0,), (slope, 1.0))
    return Activation("leaky_relu", low, high, partial(F.leaky_relu, negative_slope=slope), within=within)


def tanh() -> Activation:
    """Derivative 1 - tanh^2 in (0, 1]."""
    return Activation("tanh", 0.0, 1.0, torch.tanh, within=slopes.tanh)


def sigmoid() -> Activation:
    """Derivative s (1 - s) in (0, 1/4]."""
    return Activation("sigmoid", 0.0, 0.25, torch.sigmoid, within=slopes.sigmoid)


def elu(alpha: float = 1.0) -> Activation:
    """x where positive, alpha (e^x - 1) elsewhere: derivative 1, or alpha e^x between 0 and alpha, of either sign."""
    alpha = _number("ELU", "alpha", alpha)
    within = partial(slopes.elu, alpha=alpha)
    return Activation(f"elu({alpha})", min(0.0, alpha), max(1.0, alpha), partial(F.elu, alpha=alpha), within=within)


def absolute() -> Activation:
    """|x|: slopes in [-1, 1]."""
    return Activation("absolute", -1.0, 1.0, torch.abs, within=_stepwise((0.0,), (-1.0, 1.0)))


_GELU = {
    "none": (-0.12890414518515480, 1.1289041451851549),
    "tanh": (-0.12899306865877178, 1.1289930686587718),
}


def gelu(approximate: str = "none") -> Activation:
    """x Phi(x): the derivative Phi(x) + x phi(x) has its extremes at +-sqrt(2), for phi(x) (2 - x^2) = 0 there.

    The tanh form has them at +-1.4185.... Bounds are the exact extremes, to forty digits, rounded outward.
    """
    if approximate not in _GELU:
        raise ParameterError(f"GELU has approximate={approximate!r}, which is unknown. Set 'none' or 'tanh'.")
    return Activation(f"gelu({approximate})", *_GELU[approximate], partial(F.gelu, approximate=approximate))


def silu() -> Activation:
    """x sigmoid(x): the derivative s (1 + x (1 - s)) has its extremes at +-2.39935..."""
    return Activation("silu", -0.09983932012886694, 1.0998393201288671, F.silu)


def mish() -> Activation:
    """x tanh(softplus(x)): the derivative has its extremes at 1.49057... and -2.25637..."""
    return Activation("mish", -0.11252612238946258, 1.0884981612517280, F.mish)


def hardswish() -> Activation:
    """x (x + 3) / 6 between -3 and 3, with the derivative (2 x + 3) / 6, and 0 or x beyond."""
    return Activation("hardswish", -0.5, 1.5, F.hardswish)


def hardsigmoid() -> Activation:
    """(x + 3) / 6 between 0 and 1; the slope is above the float that 1/6 rounds to."""
    return Activation("hardsigmoid", 0.0, 0.16666666666666669, F.hardsigmoid)


def hardtanh(min_val: float = -1.0, max_val: float = 1.0) -> Activation:
    """x between two limits, either of which may be infinite, and these beyond: slopes 0 and 1."""
    low, high = _limits("Hardtanh", min_val, max_val, ("min_val", "max_val"))
    within = _stepwise((low, high), (0.0, 1.0, 0.0))
    return Activation("hardtanh", 0.0, 1.0, partial(F.hardtanh, min_val=low, max_val=high), within=within)


def clamp(low: float, high: float) -> Activation:
    """x between two limits, either of which may be infinite, and these beyond: slopes 0 and 1."""
    low, high = _limits("clamp", low, high, ("min", "max"))
    within = _stepwise((low, high), (0.0, 1.0, 0.0))
    return Activation("clamp", 0.0, 1.0, partial(torch.clamp, min=low, max=high), within=within)


def relu6(min_val: float = 0.0, max_val: float = 6.0) -> Activation:
    """x between 0 and 6, and these beyond: slopes 0 and 1. The limits of a module may have been changed."""
    if (min_val, max_val) != (0.0, 6.0):
        return hardtanh(min_val, max_val)
    return Activation("relu6", 0.0, 1.0, F.relu6, within=_stepwise((0.0, 6.0), (0.0, 1.0, 0.0)))


_LEAST_THRESHOLD = 20.0  # torch's own


def softplus(beta: float = 1.0, threshold: float = 20.0) -> Activation:
    """log(1 + e^(beta x)) / beta: the derivative is a sigmoid, of beta x, whatever the sign of beta.

    Where beta x is above the threshold torch returns x, which is a jump of log(1 + e^-threshold) / |beta|, and has no
    constant. What is meant is the function without it.
    """
    beta = _number("Softplus", "beta", beta)
    if beta == 0:
        raise ParameterError("Softplus has beta=0, by which it divides. Set another one.")
    threshold = math.inf if _is_infinite(threshold, math.inf) else _number("Softplus", "threshold", threshold)
    jump = math.log1p(math.exp(-max(threshold, -700.0))) / abs(beta)
    if threshold < _LEAST_THRESHOLD:
        raise ParameterError(
            f"Softplus has threshold={threshold:g}, where it jumps by {jump:.2g}, and has no Lipschitz constant. Set "
            f"threshold={_LEAST_THRESHOLD:g} or more."
        )
    note = f"softplus without its threshold: torch returns x where beta x > {threshold:g}, at most {jump:.1e} away"
    function = partial(F.softplus, beta=beta, threshold=threshold)
    within = partial(slopes.softplus, beta=beta)
    return Activation("softplus", 0.0, 1.0, function, within=within, note=note if jump > 0 else "")


def softsign() -> Activation:
    """x / (1 + |x|): derivative 1 / (1 + |x|)^2 in (0, 1]."""
    return Activation("softsign", 0.0, 1.0, F.softsign)


def log_sigmoid() -> Activation:
    """log sigmoid(x): derivative sigmoid(-x) in (0, 1)."""
    return Activation("log_sigmoid", 0.0, 1.0, F.logsigmoid)


def tanhshrink() -> Activation:
    """x - tanh x: derivative tanh^2 in [0, 1)."""
    return Activation("tanhshrink", 0.0, 1.0, F.tanhshrink)


def softshrink(lambd: float = 0.5) -> Activation:
    """x moved towards zero by lambd, and zero near it: slopes 0 and 1. It is continuous for lambd >= 0 only."""
    lambd = _number("Softshrink", "lambd", lambd)
    if lambd < 0:
        raise ParameterError(f"Softshrink has lambd={lambd:g}, where it jumps. Set lambd to 0 or more.")
    within = _stepwise((-lambd, lambd), (1.0, 0.0, 1.0))
    return Activation("softshrink", 0.0, 1.0, partial(F.softshrink, lambd=lambd), within=within)


def selu() -> Activation:
    """scale x where positive, scale alpha (e^x - 1) elsewhere: derivatives scale, and up to scale alpha = 1.7581."""
    return Activation("selu", 0.0, 1.7580993408473773, F.selu)


def celu(alpha: float = 1.0) -> Activation:
    """x where positive, alpha (e^(x / alpha) - 1) elsewhere: derivative 1, or e^(x / alpha), below 1 for alpha > 0."""
    alpha = _number("CELU", "alpha", alpha)
    if alpha < 0:
        raise ParameterError(
            f"CELU has alpha={alpha:g}, with which its slope e^(x / alpha) grows without bound. Set alpha above 0."
        )
    if alpha < sys.float_info.min:  # torch multiplies by 1 / alpha
        raise ParameterError(f"CELU has alpha={alpha:g}, by which it divides. Set alpha well above 0.")
    return Activation("celu", 0.0, 1.0, partial(F.celu, alpha=alpha))
