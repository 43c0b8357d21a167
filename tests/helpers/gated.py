"""Networks with products of two branches, as people write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """A gate for every channel, of the channels' means."""

    def __init__(self, channels: int, width: int = 2) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Linear(channels, width), nn.Linear(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.wide(F.silu(self.narrow(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class SwiGLU(nn.Module):
    """silu(A x) times B x."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(size, width), nn.Linear(size, width), nn.Linear(width, size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(F.silu(self.a(x)) * self.b(x))
        return out


class Gated(nn.Module):
    """tanh(A x) times sigmoid(B x), which is bounded everywhere, as both factors are."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(size, width), nn.Linear(size, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.a(x)) * torch.sigmoid(self.b(x))


class Coupling(nn.Module):
    """A layer of RealNVP: one half is scaled and moved by functions of the other."""

    def __init__(self, half: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Linear(half, half), nn.Linear(half, half)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return torch.cat([a, b * torch.exp(torch.tanh(self.scale(a))) + self.shift(a)], 1)


class Attention(nn.Module):
    """softmax(Q K' / sqrt(d)) V of tokens, one head."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(size, size) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.matmul(self.q(x), self.k(x).transpose(-2, -1)) / x.shape[-1] ** 0.5
        return torch.matmul(scores.softmax(-1), self.v(x))


class Quotient(nn.Module):
    """One half over a bounded positive function of the other."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return a / (1 + b.abs())
