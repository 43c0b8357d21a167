import pytest
import torch
from torch import nn

from lipguard import robustness
from lipguard.network.trace import trace
from lipguard.robustness import lower_bound


def test_a_linear_network_has_its_norm_as_lower_bound() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(7, 4).double()
    exact = float(torch.linalg.matrix_norm(layer.weight.detach(), 2))
    found = lower_bound(trace(layer, (7,)))
    assert exact * 0.99 <= found <= exact


def test_ascent_finds_more_than_the_starting_points_hold() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3)).double()
    network = trace(model, (6,))
    assert lower_bound(network, steps=10) > 1.02 * lower_bound(network, steps=1)


def test_data_is_where_the_search_starts() -> None:
    """A bump far from the origin that only the data show."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Tanh()).double()
    with torch.no_grad():
        model[0].weight.fill_(5.0)
        model[0].bias.fill_(-5000.0)
    network = trace(model, (1,))
    data = torch.full((3, 1), 1000.0, dtype=torch.float64) + torch.tensor([[-0.01], [0.0], [0.01]])
    assert lower_bound(network) < 1e-6
    assert lower_bound(network, data, steps=1) == pytest.approx(5.0, rel=0.05)


def test_the_kink_at_zero_is_not_mistaken_for_a_slope() -> None:
    """2 x - relu(x) + relu(-x) is x, but automatic differentiation says 2 at zero."""

    class Identity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.minus, self.one = (nn.Linear(1, 1, bias=False) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            positive = self.minus(torch.relu(x))
            return self.twice(x) + positive + torch.relu(self.one(x))

    model = Identity().double()
    with torch.no_grad():
        for layer, weight in ((model.twice, 2.0), (model.minus, -1.0), (model.one, -1.0)):
            layer.weight.fill_(weight)
    zeros = torch.zeros(4, 1, dtype=torch.float64)
    assert lower_bound(trace(model, (1,)), zeros) <= 1.0


def test_the_same_seed_gives_the_same_number() -> None:
    torch.manual_seed(0)
    network = trace(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)), (6,))
    assert lower_bound(network, seed=3) == lower_bound(network, seed=3)


def test_the_global_random_state_is_left_alone() -> None:
    network = trace(nn.Linear(3, 3), (3,))
    before = torch.get_rng_state()
    lower_bound(network)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 2, 1)], ids=str)
def test_the_derivative_of_max_pooling_is_that_of_the_module(pool: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(2, 2, 2)).double().eval()
    network = trace(model, (1, 6, 6))
    x, v = torch.randn(2, 5, 1, 6, 6, dtype=torch.float64)
    slopes, _ = robustness._slopes(network, x)
    found = robustness._jacobian_times(network, slopes, v)
    _, expected = torch.autograd.functional.jvp(model, x, v)
    torch.testing.assert_close(found, expected)
