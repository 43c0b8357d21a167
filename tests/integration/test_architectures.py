"""Architectures as people write them, in a small form: functional calls, branches, concatenation, pooling."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers.sandwich import assert_sandwich
from torch import Tensor, nn


class LeNet(nn.Module):
    """Two convolutions with max pooling, three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 3, 5, padding=2), nn.Conv2d(3, 6, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(24, 20), nn.Linear(20, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(F.pad(x, (1, 1, 1, 1)))), 2)
        x = torch.flatten(x, 1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))  # type: ignore[no-any-return]


class Basic(nn.Module):
    """A residual block, with a strided shortcut where it changes the shape."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class ResNet(nn.Module):
    """A stem with max pooling, two blocks, a global average."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(Basic(4, 4, 1), Basic(4, 6, 2))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Dense(nn.Module):
    """Every layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(2 + 2 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(2 + 2 * i, 2, 3, padding=1) for i in range(3))
        self.transition, self.head = nn.Conv2d(8, 4, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        x = F.avg_pool2d(self.transition(x), 3)
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


class Inverted(nn.Module):
    """MobileNetV2's block: expanded, depthwise, projected, added."""

    def __init__(self) -> None:
        super().__init__()
        expand = [nn.Conv2d(2, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU6(inplace=True)]
        depthwise = [nn.Conv2d(6, 6, 3, 1, 1, groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU6(inplace=True)]
        self.conv = nn.Sequential(*expand, *depthwise, nn.Conv2d(6, 2, 1, bias=False), nn.BatchNorm2d(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)  # type: ignore[no-any-return]


class Inception(nn.Module):
    """Branches side by side, scaled inputs, half of the channels gated by their size."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")
        self.head = nn.Linear(6 * 36, 3)
        self.register_buffer("mean", torch.tensor([0.4, 0.5]).reshape(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / 0.25  # type: ignore[operator]
        pooled = F.max_pool2d(x, 3, 1, 1)
        first, second = self.three(x).chunk(2, 1)
        x = torch.cat([F.gelu(self.one(x)), pooled, first.abs() - F.silu(second), F.mish(second)], dim=1)
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


class Wrapped(nn.Module):
    """A forward that only calls a submodule, as a LightningModule's does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.PReLU(3), Inverted2(), nn.Flatten(), nn.Linear(48, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


class Inverted2(nn.Module):
    """Weights shared by two uses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * self.conv(torch.tanh(self.conv(x))) + x


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    "LeNet": (LeNet, (1, 12, 12), 0.7),
    "ResNet": (ResNet, (3, 12, 12), 0.5),
    "DenseNet": (Dense, (2, 6, 6), 0.5),
    "MobileNetV2": (lambda: nn.Sequential(Inverted(), Inverted(), nn.Flatten(), nn.Linear(72, 3)), (2, 6, 6), 0.9),
    "Inception": (Inception, (2, 6, 6), 0.9),
    "weights that are shared": (Wrapped, (2, 6, 6), 0.9),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_certified_jointly_and_below_product_and_triangle(name: str) -> None:
    build, shape, ratio = MODELS[name]
    torch.manual_seed(0)
    model = build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
    model.double().eval()
    report = assert_sandwich(model, shape)
    assert report.status == "complete"
    assert report.bound <= ratio * report.product_bound
