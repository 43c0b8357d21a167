"""A critic Q(s, a) of two inputs: how far a value moves with the state, for a fixed action, and with the action.

python examples/q_network.py
"""

import torch
from torch import Tensor, nn

import lipguard


class Critic(nn.Module):
    def __init__(self, states: int = 6, actions: int = 2) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(states + actions, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.net(torch.cat([state, action], -1)).squeeze(-1)


if __name__ == "__main__":
    torch.manual_seed(0)
    critic = Critic()
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.01)
    for _ in range(200):  # a reward that falls with the distance from a target, in place of a target network
        state, action = torch.randn(64, 6), torch.rand(64, 2) * 2 - 1
        loss = (critic(state, action) + (state[:, :2] - action).norm(dim=1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    action = torch.tensor([0.5, -0.5])
    by_state = lipguard.certify(critic, (6,), input="state", fixed={"action": action})
    by_action = lipguard.certify(critic, (2,), input="action", fixed={"state": torch.zeros(6)})
    print(f"in the state:  {by_state.lower_bound:.3f} <= L <= {by_state.bound:.3f}")
    print(f"in the action: {by_action.lower_bound:.3f} <= L <= {by_action.bound:.3f}")
    bound = lipguard.verify(by_state.certificate, critic, input="state", fixed={"action": action})
    print(f"proved again: {bound:.3f}, so a sensor that is off by 0.01 moves this value by {0.01 * bound:.4f} at most")
