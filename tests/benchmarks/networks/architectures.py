"""Architectures as people write them, and a light training of each.

Those for 28x28 see MNIST, those for 3x32x32 the same images in colours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .training import TRAINED_ON, coloured


class LeNet(nn.Module):
    """LeNet-5, with the pooling and the activation that are asked for."""

    def __init__(self, pool: nn.Module, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool, self.activation = pool, activation
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.activation(self.conv1(x)))
        x = self.pool(self.activation(self.conv2(x)))
        x = self.activation(self.fc1(x.flatten(1)))
        return self.fc3(self.activation(self.fc2(x)))  # type: ignore[no-any-return]


class TwoConvolutions(nn.Module):
    """2C2F: two strided convolutions, padded as TensorFlow pads (the odd one at the end), two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 4, 2), nn.Conv2d(16, 32, 4, 2)
        self.fc1, self.fc2 = nn.Linear(32 * 7 * 7, 100), nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(F.pad(x, (1, 1, 1, 1))))
        x = F.relu(self.conv2(F.pad(x, (1, 2, 1, 2))))
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))  # type: ignore[no-any-return]


class Basic(nn.Module):
    """ResNet's block, with a strided shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class ResNet(nn.Module):
    """For 32x32 images: a stem, stages of blocks, the average, a linear layer."""

    def __init__(self, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0])
        stages = []
        before = widths[0]
        for stage, width in enumerate(widths):
            for k in range(blocks):
                stages.append(Basic(before, width, 2 if stage and not k else 1))
                before = width
        self.stages, self.head = nn.Sequential(*stages), nn.Linear(before, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(F.relu(self.bn(self.conv(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


class DenseBlock(nn.Module):
    """DenseNet's: every layer reads all before it."""

    def __init__(self, inputs: int, growth: int, layers: int) -> None:
        super().__init__()
        channels = [inputs + k * growth for k in range(layers)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)
        self.convs = nn.ModuleList(nn.Conv2d(c, growth, 3, padding=1, bias=False) for c in channels)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """Three dense blocks of four layers, growth 12."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1, bias=False)
        parts: list[nn.Module] = []
        channels = 24
        for k in range(3):
            parts.append(DenseBlock(channels, 12, 4))
            channels += 48
            if k < 2:
                half = channels // 2
                transition = [nn.Conv2d(channels, half, 1, bias=False), nn.AvgPool2d(2)]
                parts += [nn.BatchNorm2d(channels), nn.ReLU(), *transition]
                channels = half
        self.body, self.bn, self.head = nn.Sequential(*parts), nn.BatchNorm2d(channels), nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.body(self.stem(x))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Inverted(nn.Module):
    """MobileNetV2's block: expanded, depthwise, projected, and added where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, factor: int) -> None:
        super().__init__()
        wide = inputs * factor
        expand = [nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True)]
        self.conv = nn.Sequential(
            *(expand if factor > 1 else []),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True),
            nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.added = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y if self.added else y  # type: ignore[no-any-return]


class MobileNet(nn.Module):
    """MobileNetV2's shape for 32x32, at a quarter of its width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
        blocks, before = [], 8
        for factor, channels, count, stride in (
            (1, 4, 1, 1), (6, 6, 2, 1), (6, 8, 3, 2), (6, 16, 4, 2), (6, 24, 3, 1), (6, 40, 3, 2), (6, 80, 1, 1),
        ):  # fmt: skip
            for k in range(count):
                blocks.append(Inverted(before, channels, stride if k == 0 else 1, factor))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(nn.Conv2d(80, 320, 1, bias=False), nn.BatchNorm2d(320), nn.ReLU6(inplace=True))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(320, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.blocks(self.stem(x)))
        return self.classifier(x.mean([2, 3]))  # type: ignore[no-any-return]


def _vgg11() -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"):
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


@dataclass(frozen=True)
class Case:
    """An architecture, how long it is trained, and what its bound is to reach of the product's, in so many seconds."""

    name: str
    build: Callable[[], nn.Module]
    steps: int
    shape: tuple[int, ...] = (3, 32, 32)
    ratio: float | None = None
    seconds: float = 300.0


SMALL = (1, 28, 28)
CASES = (
    Case("LeNet-5, average", lambda: LeNet(nn.AvgPool2d(2), F.relu), 700, SMALL, 0.35, 10),
    Case("LeNet-5, max", lambda: LeNet(nn.MaxPool2d(2), F.relu), 700, SMALL, 0.5, 20),
    Case("LeNet-5, average, tanh", lambda: LeNet(nn.AvgPool2d(2), torch.tanh), 700, SMALL),
    Case("LeNet-5, max, tanh", lambda: LeNet(nn.MaxPool2d(2), torch.tanh), 700, SMALL),
    Case("2C2F, padded at the end", TwoConvolutions, 400, SMALL),
    Case("ResNet-20", lambda: ResNet((16, 32, 64), 3), 60, ratio=0.002, seconds=120),
    Case("DenseNet, 3 x 4, growth 12", DenseNet, 60, ratio=0.1),
    Case("MobileNetV2, a quarter wide", MobileNet, 60, ratio=0.1),
    Case("VGG-11, batch norm, max", _vgg11, 40),
    Case("ResNet-18, 32x32", lambda: ResNet((64, 128, 256, 512), 2), 25),
)


def trained(case: Case, images: Tensor, labels: Tensor) -> tuple[nn.Module, float]:
    """(the model in eval mode, its accuracy on the last 1,000 images)."""
    if case.shape[0] == 3:
        images = coloured(images)
    torch.manual_seed(0)
    model = case.build()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    epochs = (torch.split(torch.randperm(TRAINED_ON, generator=generator), 64) for _ in itertools.count())
    for batch in itertools.islice(itertools.chain.from_iterable(epochs), case.steps):
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    model.eval()
    with torch.no_grad():
        rest = torch.cat([model(part).argmax(1) for part in torch.split(images[TRAINED_ON:], 100)])
    return model, float((rest == labels[TRAINED_ON:]).float().mean())
