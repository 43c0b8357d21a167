"""A learned right-hand side dy/dt = f(t, y): what its constant says of trajectories and of step sizes.

python examples/dynamics.py
"""

import math

import torch
from torch import Tensor, nn

import lipguard


class Rates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.cat([y, t.expand(len(y), 1)], 1))


if __name__ == "__main__":
    torch.manual_seed(0)
    rates = Rates()
    optimizer = torch.optim.Adam(rates.parameters(), lr=0.01)
    turn = torch.tensor([[0.0, 1.0], [-1.0, -0.1]])
    for _ in range(300):  # a damped oscillator
        y = 2 * torch.randn(64, 2)
        loss = (rates(torch.rand(1, 1), y) - y @ turn.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    found = lipguard.certify(rates, (2,), input="y", fixed={"t": torch.tensor([[0.5]])})
    print(f"at t = 0.5: {found.lower_bound:.3f} <= L <= {found.bound:.3f}")
    print(f"trajectories part by a factor of {math.exp(0.1 * found.bound):.3f} at most in 0.1 of a unit of time")
    print(f"implicit Euler's fixed-point iteration contracts for steps below {1 / found.bound:.3f}")
