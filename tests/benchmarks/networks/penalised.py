"""CNN1 trained on MNIST with a penalty."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import mean

import torch
from torch import Tensor, nn

from lipguard import LipschitzPenalty

from .trained import cnn1
from .training import TRAINED_ON

SHAPE = (1, 28, 28)


class NormProduct:
    """The product of the layers' spectral norms, each on the input that it sees, by one step of power iteration."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        self.layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        self.x: list[Tensor] = []
        seen: list[Tensor] = []
        hooks = [m.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for m in self.layers]
        with torch.no_grad():
            model(torch.zeros(1, *shape))
        for hook in hooks:
            hook.remove()
        self.x = [torch.randn_like(v) for v in seen]
        for _ in range(20):
            self()

    def __call__(self) -> Tensor:
        product = torch.ones(())
        for k, layer in enumerate(self.layers):
            x = self.x[k].requires_grad_()
            y = self._linear(layer, x)
            (x,) = torch.autograd.grad(y, x, y.detach())
            self.x[k] = x.detach() / x.norm()
            product = product * self._linear(layer, self.x[k]).norm()
        return product

    @staticmethod
    def _linear(layer: nn.Module, x: Tensor) -> Tensor:
        if isinstance(layer, nn.Conv2d):
            return nn.functional.conv2d(x, layer.weight, None, layer.stride, layer.padding)
        return nn.functional.linear(x, layer.weight)  # type: ignore[arg-type]


def trained(kind: str, lam: float, seed: int, epochs: int, images: Tensor, labels: Tensor) -> tuple[nn.Module, float]:
    """(the network in eval mode, seconds per step), with the penalty of a kind times `lam`."""
    torch.manual_seed(seed)
    model = cnn1()
    decay = lam if kind == "weight decay" else 0.0
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=decay)
    penalty: Callable[[], Tensor] | None = None
    if kind.startswith("relaxation"):
        penalty = LipschitzPenalty(model, SHAPE, every=2 if "2" in kind else 1)
    elif kind == "norm product":
        penalty = NormProduct(model, SHAPE)
    order = torch.Generator().manual_seed(seed)
    seconds = []
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(TRAINED_ON, generator=order), 64):
            began = time.perf_counter()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            if penalty is not None:
                loss = loss + lam * penalty()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            seconds.append(time.perf_counter() - began)
    return model.eval(), mean(seconds)
