"""Random graphs of all kinds of layers: branches, sums, concatenations, parts, shared modules."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn

from helpers.networks import with_weights

_MOST_ENTRIES = 120
Shape = tuple[int, ...]
Make = Callable[[random.Random, int], nn.Module]


def _convolution(rng: random.Random, channels: int) -> nn.Module:
    groups = rng.choice([n for n in (1, 2, 3) if channels % n == 0])
    padding = rng.choice(["zeros", "zeros", "reflect", "circular", "replicate"])
    return nn.Conv2d(
        channels, groups * rng.randint(1, 2), (rng.randint(1, 3), rng.randint(1, 3)), rng.randint(1, 2),
        rng.randint(0, 1), rng.randint(1, 2), groups, bool(rng.randint(0, 1)), padding,
    )  # fmt: skip


LAYERS: dict[str, Make] = {
    "convolution": _convolution,
    "same": lambda rng, c: nn.Conv2d(c, 2, (2, rng.randint(1, 3)), padding="same"),
    "transposed": lambda rng, c: nn.ConvTranspose2d(c, 2, rng.randint(1, 3), rng.randint(1, 2), rng.randint(0, 1)),
    "batch norm": lambda rng, c: nn.BatchNorm2d(c),
    "average": lambda rng, c: nn.AvgPool2d(rng.randint(1, 3), rng.randint(1, 2), ceil_mode=bool(rng.randint(0, 1))),
    "max": lambda rng, c: nn.MaxPool2d(rng.randint(2, 3), rng.randint(1, 2), 1, ceil_mode=bool(rng.randint(0, 1))),
    "adaptive average": lambda rng, c: nn.AdaptiveAvgPool2d((rng.randint(1, 3), 2)),
    "adaptive max": lambda rng, c: nn.AdaptiveMaxPool2d((2, rng.randint(1, 3))),
    "nearest": lambda rng, c: nn.Upsample(scale_factor=2),
    "bilinear": lambda rng, c: nn.Upsample((3, rng.randint(1, 4)), mode="bilinear"),
    "padding": lambda rng, c: rng.choice([nn.ZeroPad2d, nn.ReplicationPad2d])((1, 0, 0, 2)),
    "unshuffle": lambda rng, c: nn.PixelUnshuffle(2),
    "linear": lambda rng, c: nn.LazyLinear(rng.randint(1, 3)),
    "prelu": lambda rng, c: nn.PReLU(c),
    **{
        kind.__name__: lambda rng, c, kind=kind: kind()  # type: ignore[misc]
        for kind in (nn.ReLU, nn.Tanh, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.ELU, nn.Softshrink, nn.ReLU6)
    },
}


class Graph(nn.Module):
    """Steps of (name, module, what it reads); the last value is flattened, and a Linear layer reads it."""

    def __init__(self, steps: list[tuple[str, nn.Module | None, tuple[int, ...]]]) -> None:
        super().__init__()
        self.steps = [(name, reads) for name, _, reads in steps]
        self.layers = nn.ModuleList(nn.Identity() if module is None else module for _, module, _ in steps)
        self.head = nn.LazyLinear(3)

    def values(self, x: Tensor) -> list[Tensor]:
        """Of every step."""
        found = [x]
        for (name, reads), layer in zip(self.steps, self.layers, strict=True):
            inputs = [found[j] for j in reads]
            if name == "add":
                y = inputs[0] + inputs[1]
            elif name == "subtract":
                y = inputs[0] - 0.5 * inputs[1]
            elif name == "cat":
                y = torch.cat(inputs, 1)
            elif name == "chunk":
                y = inputs[0].chunk(2, -1)[0]
            elif name == "permute":
                y = inputs[0].permute(0, 1, 3, 2)
            else:
                y = layer(inputs[0])
            found.append(y)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The head of the last value."""
        return self.head(self.values(x)[-1].flatten(1))  # type: ignore[no-any-return]


def random_graph(seed: int, depth: int = 8) -> tuple[nn.Module, Shape]:
    """(model in eval mode of float64, shape of an input): up to `depth` steps."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    shape = (rng.randint(1, 2), rng.randint(1, 6), rng.randint(1, 6))
    steps: list[tuple[str, nn.Module | None, tuple[int, ...]]] = []
    wanted = rng.randint(1, depth)
    for _ in range(20 * depth):
        if len(steps) == wanted:
            break
        candidate = _step(rng, steps, shape)
        if candidate is not None:
            steps.append(candidate)
    model = Graph(steps).eval()
    with torch.no_grad():
        model(torch.zeros(2, *shape))  # the lazy layers
    return with_weights(model, seed), shape


def _step(
    rng: random.Random, steps: list[tuple[str, nn.Module | None, tuple[int, ...]]], shape: Shape
) -> tuple[str, nn.Module | None, tuple[int, ...]] | None:
    model = Graph(steps).eval()
    with torch.no_grad():
        values = model.values(torch.zeros(2, *shape))
    last = len(values) - 1
    if steps and rng.random() < 0.3:  # what the last value meets
        name = rng.choice(["add", "subtract", "cat", "chunk", "permute"])
        other = [j for j, v in enumerate(values[:-1]) if v.shape[2:] == values[-1].shape[2:]]
        if name in ("add", "subtract"):
            other = [j for j in other if values[j].shape == values[-1].shape]
        step = (name, None, (last,) if name in ("chunk", "permute") else (last, rng.choice(other or [last])))
    else:
        name = rng.choice(list(LAYERS))
        known = [m for n, m, _ in steps if n == name and m is not None]
        module = rng.choice(known) if known and rng.random() < 0.3 else LAYERS[name](rng, values[-1].shape[1])
        step = (name, module, (last if rng.random() < 0.8 else rng.randint(0, last),))
    try:
        with torch.no_grad():
            size = Graph([*steps, step]).eval().values(torch.zeros(2, *shape))[-1][0].numel()
    except (RuntimeError, ValueError):
        return None  # it does not fit
    return step if 0 < size <= _MOST_ENTRIES else None
