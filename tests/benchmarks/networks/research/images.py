"""Networks of images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .row import Case, of

CONV = {"kernel_size": 3, "padding": 1}


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, x.size(1) * x.size(2) * x.size(3))
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class Digits(nn.Module):
    """With dropout between, and log-probabilities at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, 1), nn.Conv2d(32, 64, 3, 1)
        self.drop1, self.drop2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = torch.flatten(self.drop1(F.max_pool2d(x, 2)), 1)
        return F.log_softmax(self.fc2(self.drop2(F.relu(self.fc1(x)))), dim=1)


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int = 1, pre: bool = False) -> None:
        super().__init__()
        self.pre = pre
        self.bn1, self.bn2 = nn.BatchNorm2d(c_in if pre else c_out), nn.BatchNorm2d(c_out)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.short = None if stride == 1 and c_in == c_out else nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            out = F.relu(self.bn1(x))
            skip = x if self.short is None else self.short(out)
            return self.conv2(F.relu(self.bn2(self.conv1(out)))) + skip
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out += x if self.short is None else self.short(x)
        return F.relu(out)


class Residual(nn.Module):
    def __init__(self, width: int, blocks: tuple[int, ...], pre: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        layers, before = [], width
        for k, count in enumerate(blocks):
            for i in range(count):
                layers.append(Block(before, width * 2**k, 2 if k and not i else 1, pre))
                before = width * 2**k
        self.layers, self.linear = nn.Sequential(*layers), nn.Linear(before, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.stem(x))
        return self.linear(F.avg_pool2d(x, x.shape[-1]).flatten(1))


class Dense(nn.Module):
    """Layers that read all before them, in three stages."""

    def __init__(self, growth: int = 12, layers: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2 * growth, **CONV, bias=False)
        self.stages, self.narrow, channels = nn.ModuleList(), nn.ModuleList(), 2 * growth
        for _ in range(3):
            stage = nn.ModuleList()
            for _ in range(layers):
                stage.append(nn.Sequential(
                    nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 4 * growth, 1, bias=False),
                    nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, **CONV, bias=False),
                ))  # fmt: skip
                channels += growth
            self.stages.append(stage)
            self.narrow.append(nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1),
                                             nn.AvgPool2d(2)))  # fmt: skip
            channels //= 2
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage, narrow in zip(self.stages, self.narrow, strict=True):
            for layer in stage:
                x = torch.cat([layer(x), x], 1)
            x = narrow(x)
        return self.head(x.mean((2, 3)))


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    before = 3
    for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            before = width
        else:
            layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers, nn.AvgPool2d(1, 1), nn.Flatten(), nn.Linear(512, 10))


class UNet(nn.Module):
    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.down1, self.down2, self.mid = twice(1, c), twice(c, 2 * c), twice(2 * c, 4 * c)
        self.up2, self.up1 = nn.ConvTranspose2d(4 * c, 2 * c, 2, 2), nn.ConvTranspose2d(2 * c, c, 2, 2)
        self.dec2, self.dec1, self.last = twice(4 * c, 2 * c), twice(2 * c, c), nn.Conv2d(c, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        y = self.mid(F.max_pool2d(two, 2))
        y = self.dec2(torch.cat((two, self.up2(y)), dim=1))
        return self.last(self.dec1(torch.cat((one, self.up1(y)), dim=1)))


def twice(c_in: int, c_out: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True),
        nn.Conv2d(c_out, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True),
    )  # fmt: skip


class Hourglass(nn.Module):
    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Conv2d(3, c, **CONV), nn.Conv2d(c, c, **CONV), nn.Conv2d(c, 3, **CONV)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        low = F.relu(self.inner(F.avg_pool2d(y, 2)))
        return self.last(y + F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False))


class Excited(nn.Module):
    """Squeeze and excitation of a small network."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, c, **CONV), nn.Linear(c, 10)
        self.fc = nn.Sequential(nn.Linear(c, c // 4), nn.ReLU(), nn.Linear(c // 4, c), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        gate = self.fc(F.adaptive_avg_pool2d(y, 1).view(y.size(0), -1)).view(y.size(0), -1, 1, 1)
        return self.head((y * gate.expand_as(y)).mean(dim=(-2, -1)))


class Blurred(nn.Module):
    """Anti-aliased by a fixed filter that is a buffer."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.c, self.conv, self.head = c, nn.Conv2d(3, c, **CONV), nn.Linear(c * 64, 10)
        a = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("filt", (a[:, None] * a[None, :] / 16)[None, None].repeat(c, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.pad(F.relu(self.conv(x)), (1, 1, 1, 1), mode="reflect")
        return self.head(F.conv2d(y, self.filt, stride=2, groups=self.c).flatten(1))


class Dropped(nn.Module):
    """A residual branch that is dropped at random while training, by hand."""

    def __init__(self, c: int = 8, p: float = 0.1) -> None:
        super().__init__()
        self.p, self.stem, self.conv, self.head = p, nn.Conv2d(3, c, **CONV), nn.Conv2d(c, c, **CONV), nn.Linear(c, 10)

    def drop(self, x: Tensor) -> Tensor:
        if self.p == 0.0 or not self.training:
            return x
        keep = 1 - self.p
        return x.div(keep) * (keep + torch.rand(x.shape[0], 1, 1, 1)).floor_()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head((x + self.drop(F.relu(self.conv(x)))).mean((2, 3)))


class Standardised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.49, 0.48, 0.45])[None, :, None, None])
        self.register_buffer("std", torch.tensor([0.25, 0.24, 0.26])[None, :, None, None])
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.std)


class Attended(nn.Module):
    """Channel and spatial attention, by averages and maxima."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv, self.head, self.spatial = nn.Conv2d(3, c, **CONV), nn.Linear(c, 10), nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        seen = torch.cat([y.mean(1, keepdim=True), torch.max(y, 1, keepdim=True)[0]], 1)
        return self.head((y * torch.sigmoid(self.spatial(seen))).mean((2, 3)))


def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1), nn.ReLU(),
        nn.ConvTranspose2d(8, 1, 3, 2, 1, output_padding=1), nn.Sigmoid(),
    )  # fmt: skip


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, **CONV), nn.GroupNorm(4, 8), nn.SiLU(), nn.Flatten(), nn.Linear(2048, 10))


def critic() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(),
        nn.Linear(32 * 49, 1),
    )  # fmt: skip


def volumes() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool3d((1, 2, 2)), nn.Conv3d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool3d(2), nn.Flatten(), nn.Linear(16 * 4 * 4 * 4, 10),
    )  # fmt: skip


RGB, GREY, SMALL = (3, 32, 32), (1, 28, 28), (3, 16, 16)
CASES: list[Case] = [
    of("LeNet", GREY, LeNet), of("digits with log-probabilities", GREY, Digits), of("autoencoder", GREY, autoencoder),
    of("critic of a WGAN", GREY, critic), of("U-Net", (1, 32, 32), UNet), of("VGG for 32x32", RGB, vgg),
    of("ResNet-18 for 32x32", RGB, lambda: Residual(64, (2, 2, 2, 2))),
    of("pre-activated ResNet", RGB, lambda: Residual(16, (2, 2, 2), True)),
    of("wide ResNet", RGB, lambda: Residual(32, (4, 4, 4), True)), of("DenseNet", RGB, Dense),
    of("hourglass", SMALL, Hourglass), of("squeeze and excitation", SMALL, Excited),
    of("blurred pooling", SMALL, Blurred),
    of("dropped branches", SMALL, Dropped), of("standardised inside", (3, 8, 8), Standardised),
    of("spatial attention", SMALL, Attended), of("group norm", SMALL, grouped), of("video", (3, 8, 16, 16), volumes),
]  # fmt: skip
