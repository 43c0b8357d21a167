"""Random odd networks for hypothesis: small, float64, in eval mode, all weights from one drawn seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

Shape = tuple[int, ...]
ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU,
    lambda: nn.ReLU(inplace=True),
    nn.Tanh,
    nn.Sigmoid,
    lambda: nn.LeakyReLU(0.2),
    lambda: nn.LeakyReLU(1.5),
    lambda: nn.LeakyReLU(-0.3),
    nn.ELU,
    lambda: nn.ELU(2.0),
    lambda: nn.ELU(-0.5),
)
Axis = tuple[int, int, int, int]  # kernel, stride, padding, dilation


@dataclass(frozen=True)
class Sample:
    """A model and the shape of one input."""

    model: nn.Module
    input_shape: Shape

    def inputs(self, count: int = 4, seed: int = 0) -> Tensor:
        """Random inputs, shape (count, *input_shape)."""
        generator = torch.Generator().manual_seed(seed)
        return 2 * torch.randn(count, *self.input_shape, generator=generator, dtype=torch.float64)


class Residual(nn.Module):
    """body(x) + skip(x)."""

    def __init__(self, body: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.skip, self.body = skip, body  # registered in another order than they run

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.skip(x)


class Twice(nn.Module):
    """The same module applied to its own output."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.inner(x))


def with_weights(model: nn.Module, seed: int) -> nn.Module:
    """The model in float64 and eval mode, with normal weights and random running statistics."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(normal(parameter))
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.copy_(normal(module.running_mean))
                module.running_var.copy_(0.2 + normal(module.running_var).abs())
    return model


def output_shape(model: nn.Module, shape: Shape) -> Shape:
    """Shape of one output sample."""
    with torch.no_grad():
        return tuple(model.double().eval()(torch.zeros(2, *shape, dtype=torch.float64)).shape[1:])


def _axes(size: int, *, compact: bool) -> st.SearchStrategy[Axis]:
    """Geometry of a convolution along one axis. `compact`: what it reads has no holes."""
    return st.sampled_from(
        [
            (kernel, stride, padding, dilation)
            for kernel in (1, 2, 3)
            for stride in (1, 2, 3)
            for padding in (0, 1, 2)
            for dilation in (1, 2)
            if dilation * (kernel - 1) < size + 2 * padding and (not compact or (dilation == 1 and stride <= kernel))
        ]
    )


@st.composite
def convolutions(draw: DrawFn, shape: Shape, compact: bool = False) -> nn.Module:
    """A Conv2d with its own geometry on either axis."""
    channels, rows, columns = shape
    groups = draw(st.sampled_from([n for n in (1, 2, 3) if channels % n == 0]))
    (kr, sr, pr, dr), (kc, sc, pc, dc) = draw(_axes(rows, compact=compact)), draw(_axes(columns, compact=compact))
    padding: tuple[int, int] | str = (pr, pc)
    if sr == sc == 1 and dr * (kr - 1) % 2 == dc * (kc - 1) % 2 == 0 and draw(st.booleans()):
        padding = "same"
    return nn.Conv2d(
        channels, groups * draw(st.integers(1, 2)), (kr, kc), (sr, sc), padding, (dr, dc), groups, draw(st.booleans())
    )


@st.composite
def poolings(draw: DrawFn, shape: Shape, count_include_pad: bool | None = None) -> nn.Module:
    """An AvgPool2d that fits."""
    kernels = [draw(st.integers(1, min(size, 3))) for size in shape[1:]]
    padding = tuple(draw(st.integers(0, kernel // 2)) for kernel in kernels)
    stride = tuple(draw(st.integers(1, 2)) for _ in kernels)
    counted = draw(st.booleans()) if count_include_pad is None else count_include_pad
    return nn.AvgPool2d(tuple(kernels), stride, padding, count_include_pad=counted)  # type: ignore[arg-type]


@st.composite
def residuals(draw: DrawFn, shape: Shape, compact: bool = False) -> nn.Module:
    """A block whose branches meet again, with or without a stride."""
    channels, stride = shape[0], draw(st.integers(1, 2))
    kernel = draw(st.sampled_from([1, 3])) if stride == 1 else 3
    dilation = 1 if compact or stride > 1 else draw(st.integers(1, 2))
    body: list[nn.Module] = [nn.Conv2d(channels, 2, kernel, stride, dilation * (kernel // 2), dilation)]
    if draw(st.booleans()):
        body += [draw(st.sampled_from(ACTIVATIONS))(), nn.Conv2d(2, channels, 3, 1, 1)]
    else:
        body += [nn.Conv2d(2, channels, 1)]
    skip = nn.Identity() if stride == 1 and draw(st.booleans()) else nn.Conv2d(channels, channels, 1, stride)
    return Residual(nn.Sequential(*body), skip)


@st.composite
def convolutional(draw: DrawFn, largest: int = 7, depth: int = 4, compact: bool = False) -> Sample:
    """A stack of layers that keep an image an image, the same everywhere on the grid."""
    shape: Shape = (draw(st.integers(1, 3)), draw(st.integers(1, largest)), draw(st.integers(1, largest)))
    start, layers = shape, []
    kinds = ("conv", "activation", "conv", "activation", "norm", "pad", "pool", "residual")
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=depth)):
        layer: nn.Module
        if kind == "conv":
            layer = draw(convolutions(shape, compact=compact))
        elif kind == "activation":
            layer = draw(st.sampled_from(ACTIVATIONS))()
        elif kind == "norm":
            layer = nn.BatchNorm2d(shape[0])
        elif kind == "pad":
            layer = nn.ZeroPad2d(draw(st.tuples(*[st.integers(0, 2)] * 4)))
        elif kind == "pool":
            layer = draw(poolings(shape, count_include_pad=True))
        else:
            layer = draw(residuals(shape, compact=compact))
        layers.append(layer)
        shape = output_shape(layer, shape)
    return Sample(with_weights(nn.Sequential(*layers), draw(st.integers(0, 2**16))), start)


@st.composite
def networks(draw: DrawFn, largest: int = 5) -> Sample:
    """Any supported network made of modules: an odd stack of convolutions, a dense tail, or both."""
    seed = draw(st.integers(0, 2**16))
    if draw(st.booleans()):
        front = draw(convolutional(largest=largest, depth=3))
        shape, layers = front.input_shape, [front.model]
        if draw(st.booleans()):
            layers.append(draw(poolings(output_shape(front.model, shape))))
        layers.append(nn.Flatten())
    else:
        shape, layers = (draw(st.integers(1, 5)),), []
    width = output_shape(nn.Sequential(*layers), shape)[0]
    for kind in draw(st.lists(st.sampled_from(["dense", "norm", "twice", "tied", "residual"]), min_size=1, max_size=3)):
        activation, wide = draw(st.sampled_from(ACTIVATIONS)), draw(st.integers(1, 5))
        if kind == "dense":
            layers += [nn.Linear(width, wide, bias=draw(st.booleans())), activation()]
            width = wide
        elif kind == "norm":
            layers += [nn.BatchNorm1d(width), activation()]
        elif kind == "twice":
            layers += [Twice(nn.Sequential(nn.Linear(width, width), activation()))]
        elif kind == "residual":
            layers += [
                Residual(nn.Sequential(nn.Linear(width, wide), activation(), nn.Linear(wide, width)), nn.Identity())
            ]
        else:
            one, other = nn.Linear(width, width), nn.Linear(width, width)
            other.weight = one.weight
            layers += [one, activation(), other]
    model = with_weights(nn.Sequential(*layers), seed)
    dead = draw(st.none() | st.integers(0, 3))
    if dead is not None:
        with torch.no_grad():
            for parameter in list(model.parameters())[dead : dead + 1]:
                parameter.zero_()
    return Sample(model, shape)


class MaxMin(nn.Module):
    """Pairs of channels sorted."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, 2)).sort(2, descending=True).values.flatten(1, 2)
