"""A residual flow x + g(x) is invertible where every g has a constant below one: it is proved, block by block.

python examples/flow.py
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import lipguard


class Block(nn.Module):
    def __init__(self, features: int, gain: float = 0.9) -> None:
        super().__init__()
        layers = spectral_norm(nn.Linear(features, 32)), nn.ELU(), spectral_norm(nn.Linear(32, features))
        self.residual, self.gain = nn.Sequential(*layers), gain

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * self.residual(x)


class Flow(nn.Module):
    def __init__(self, features: int = 4, blocks: int = 3) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(features) for _ in range(blocks)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.blocks(x)
        return z, -0.5 * z.square().sum(1)  # and the log-density of the base


if __name__ == "__main__":
    torch.manual_seed(0)
    flow = Flow()
    for _ in range(20):
        flow(torch.randn(64, 4))  # spectral norms settle
    smallest = 1.0
    for name, block in flow.blocks.named_children():
        bound = block.gain * lipguard.certify(block.residual, (4,)).bound
        smallest *= 1 - bound
        print(f"block {name}: g has a constant of at most {bound:.4f}, {'invertible' if bound < 1 else 'not proved'}")
    whole = lipguard.certify(flow, (4,), output=0)
    print(f"a distance becomes {smallest:.3f} to {whole.bound:.3f} times itself")
