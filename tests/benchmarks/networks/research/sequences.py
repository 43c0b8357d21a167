"""Networks of points, series and words."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .row import Case, of


class Points(nn.Module):
    """The same layers for every point, then what is largest."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.by, self.conv1, self.conv2, self.head = by, nn.Conv1d(3, 16, 1), nn.Conv1d(16, 32, 1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(F.relu(self.conv1(x)))
        return self.head(torch.max(x, 2)[0] if self.by == "max" else x.amax(dim=2))


class Turned(nn.Module):
    """Points that are turned by a matrix which depends on them."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.rest = (
            nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 9)),
            Points("max"),
        )

    def forward(self, x: Tensor) -> Tensor:
        turn = self.net(x).view(-1, 3, 3) + torch.eye(3)
        return self.rest(torch.bmm(turn, x))


class Causal(nn.Module):
    """A block of a temporal network: padded on both sides, cut on one, with weight norm and a residual."""

    def __init__(self, c_in: int, c_out: int, dilation: int) -> None:
        super().__init__()
        self.cut = 2 * dilation
        conv = nn.Conv1d(c_in, c_out, 3, padding=self.cut, dilation=dilation)
        self.conv = nn.utils.parametrizations.weight_norm(conv)
        self.downsample = nn.Conv1d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x)[:, :, : -self.cut].contiguous())
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Series(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = nn.Sequential(Causal(1, 8, 1), Causal(8, 8, 2), Causal(8, 8, 4)), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x)[:, :, -1])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        return self.fc(out[:, -1])


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.conv, self.fc = nn.Embedding(50, 8), nn.Conv1d(8, 16, 3), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(self.embedding(x.long()).transpose(1, 2)))
        return self.fc(F.max_pool1d(y, y.shape[2]).squeeze(2))


class Mixing(nn.Module):
    """Layers over tokens, then over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Sequential(nn.Linear(10, 20), nn.GELU(), nn.Linear(20, 10))
        self.channels = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        return (x + self.channels(x)).mean(1)


class Attention(nn.Module):
    """One head of softmax attention."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.q(x) @ self.k(x).transpose(-2, -1) / 2, -1)
        return weights @ self.v(x)


SERIES, CLOUD, TOKENS = (1, 64), (3, 64), (10, 4)
CASES: list[Case] = [
    of("points, max", CLOUD, lambda: Points("max")), of("points, amax", CLOUD, lambda: Points("amax")),
    of("points that are turned", CLOUD, Turned), of("temporal convolutions", SERIES, Series),
    of("recurrent", TOKENS, Recurrent), of("words", (20,), Words), of("mixer", TOKENS, Mixing),
    of("softmax attention", TOKENS, Attention),
]  # fmt: skip
