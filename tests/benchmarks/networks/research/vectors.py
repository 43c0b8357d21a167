"""Networks of vectors: control, flows, physics, and layers that people write themselves."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .row import Case, of


class Written(nn.Module):
    """A function between two linear layers."""

    def __init__(self, function: Callable[[Tensor], Tensor], n: int = 16, inputs: int = 8, outputs: int = 3) -> None:
        super().__init__()
        self.function, self.one = function, nn.Linear(inputs, n)
        with torch.no_grad():
            width = function(torch.zeros(1, n)).shape[-1]
        self.two = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.function(self.one(x)))


class Ending(nn.Module):
    """A function behind a small network."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> object:
        return self.function(self.net(x))


class Dueling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.feature = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.value, self.advantage = nn.Linear(32, 1), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.feature(x)
        advantage = self.advantage(h)
        return self.value(h) + advantage - advantage.mean(dim=1, keepdim=True)


class Actor(nn.Module):
    """Mean and logarithm of the deviation of an action."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.log_std = nn.Linear(8, 32), nn.Linear(32, 2), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.body(x))
        return self.mean(h), torch.clamp(self.log_std(h), -20, 2)


class Critic(nn.Module):
    """Of a state and an action."""

    def __init__(self) -> None:
        super().__init__()
        self.l1, self.l2 = nn.Linear(10, 32), nn.Linear(32, 1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.l2(F.relu(self.l1(torch.cat([state, action], 1))))


class Coupling(nn.Module):
    """Half of the entries scale and shift the others."""

    def __init__(self) -> None:
        super().__init__()
        self.s = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2), nn.Tanh())
        self.t = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, dim=1)
        return torch.cat([one, two * torch.exp(self.s(one)) + self.t(one)], dim=1)


class Rates(nn.Module):
    """The right-hand side of a differential equation, of time and state."""

    def __init__(self, cubes: bool) -> None:
        super().__init__()
        self.cubes, self.net = cubes, nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, t: float, y: Tensor) -> Tensor:
        return self.net(y**3 if self.cubes else y)


class Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleList([nn.Linear(2, 32), nn.Linear(32, 32)])
        self.last = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = torch.sin(30.0 * layer(x))
        return self.last(x)


class Frequencies(nn.Module):
    """Sines and cosines of the coordinates, then layers."""

    def __init__(self, bands: int = 4) -> None:
        super().__init__()
        self.register_buffer("bands", 2.0 ** torch.arange(bands))
        self.net = nn.Sequential(nn.Linear(3 + 6 * bands, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        angles = (x[..., None] * self.bands * math.pi).flatten(-2)
        return self.net(torch.cat([x, angles.sin(), angles.cos()], -1))


class Splines(nn.Module):
    """Learned functions on the edges: sums of hat functions on a grid."""

    def __init__(self, inputs: int = 4, outputs: int = 3, knots: int = 7) -> None:
        super().__init__()
        self.register_buffer("grid", torch.linspace(-2, 2, knots))
        self.coefficients = nn.Parameter(torch.randn(outputs, inputs, knots) / 10)

    def forward(self, x: Tensor) -> Tensor:
        step = self.grid[1] - self.grid[0]
        basis = F.relu(1 - (x.unsqueeze(-1) - self.grid).abs() / step)
        return torch.einsum("bik,oik->bo", basis, self.coefficients) + F.silu(x).sum(-1, keepdim=True)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Raw(nn.Module):
    """Weights and a product, without a layer."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.W, self.b = nn.Parameter(torch.randn(8, 5)), nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "einsum":
            return torch.relu(torch.einsum("bi,ij->bj", x, self.W) + self.b)
        return torch.relu(x @ self.W + self.b)


class Scaled(nn.Module):
    """Residual branches, each with a gain of its own."""

    def __init__(self, n: int = 8, depth: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((depth,), 0.1))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(n, n), nn.ReLU(), nn.Linear(n, n)) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for k, block in enumerate(self.blocks):
            x = x + self.gamma[k] * block(x)
        return x


def layered(norm: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), norm(32), nn.ReLU(), nn.Linear(32, 4))


def policy() -> nn.Module:
    return nn.Sequential(nn.Linear(17, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 6))


def maxout(x: Tensor) -> Tensor:
    one, other = x.split(x.shape[1] // 2, 1)
    return torch.maximum(one, other)


V = (8,)
CASES: list[Case] = [
    of("policy with tanh", (17,), policy), of("dueling heads", V, Dueling), of("actor of two outputs", V, Actor),
    of("critic of two inputs", V, Critic), of("coupling of a flow", (4,), Coupling),
    of("right-hand side", (2,), lambda: Rates(False)), of("right-hand side of cubes", (2,), lambda: Rates(True)),
    of("sines", (2,), Siren), of("Fourier features", (3,), Frequencies), of("splines on edges", (4,), Splines),
    of("gated unit", V, Gated), of("x @ W + b", V, lambda: Raw("matmul")), of("einsum", V, lambda: Raw("einsum")),
    of("gains of branches", V, Scaled), of("layer norm", (16,), lambda: layered(nn.LayerNorm)),
    of("root mean square norm", (16,), lambda: layered(nn.RMSNorm)), of("maxout", V, lambda: Written(maxout)),
    of("x * sigmoid(x)", V, lambda: Written(lambda x: x * torch.sigmoid(x))),
    of("x * (x > 0)", V, lambda: Written(lambda x: x * (x > 0).float())),
    of("clamp(min=0)", V, lambda: Written(lambda x: x.clamp(min=0))),
    of("maximum with zero", V, lambda: Written(lambda x: torch.maximum(x, torch.zeros_like(x)))),
    of("sqrt(1 + x^2)", V, lambda: Written(lambda x: torch.sqrt(1 + x**2))),
    of("both signs", V, lambda: Written(lambda x: torch.cat([F.relu(x), F.relu(-x)], 1))),
    of("norm of the output", V, lambda: Ending(lambda y: y.norm(dim=1))),
    of("root of a sum of squares", V, lambda: Ending(lambda y: (y**2).sum(1).sqrt())),
    of("logsumexp of the output", V, lambda: Ending(lambda y: torch.logsumexp(y, 1))),
    of("a dictionary", V, lambda: Ending(lambda y: {"logits": y})),
]  # fmt: skip
