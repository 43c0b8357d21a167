"""Random graphs of up to eight layers: the network that is read is the module, and its bounds hold."""

from __future__ import annotations

import pytest
import torch
from helpers.graphs import random_graph
from helpers.sandwich import assert_sandwich
from torch import Tensor

import lipguard
from lipguard import Box, DCPConfig
from lipguard.certifying.hints import HINTS
from lipguard.proposing.feasible.uniform import enlarged_uniformly
from lipguard.proposing.power import run as power
from lipguard.proposing.power.options import PowerOptions
from lipguard.trusted.layers import Activation
from lipguard.trusted.lmi.freed import propagate
from lipguard.trusted.proofs.claim import Claim, Means
from lipguard.trusted.proofs.kinds import proves
from lipguard.trusted.reading.trace import trace

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
FEW = 10  # seeds of the default run, the first of all
TENS = [pytest.param(k, marks=[pytest.mark.slow] if k >= 25 else []) for k in range(50)]
SEEDS = [pytest.param(k, marks=[pytest.mark.slow] if k >= FEW // 10 else []) for k in range(50)]  # ten graphs each


@pytest.mark.parametrize("ten", TENS)
def test_the_linearised_network_is_the_jacobian(ten: int) -> None:
    for seed in range(10 * ten, 10 * ten + 10):
        model, shape = random_graph(seed)
        network = trace(model, shape)
        x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        slopes: dict[int, Tensor] = {}

        def step(i: int, inputs: tuple[Tensor, ...]) -> Tensor:
            layer = network.nodes[i].layer  # noqa: B023
            if isinstance(layer, Activation):
                a = inputs[0].detach().requires_grad_()
                slopes[i] = torch.autograd.grad(layer.forward(a).sum(), a)[0]  # noqa: B023
            return layer.forward(*(v.detach() for v in inputs))

        network.run(x, step)
        units = torch.eye(x.numel(), dtype=torch.float64).reshape(-1, *shape)
        found = propagate(network, units, lambda i, a: slopes[i] * a).flatten(1)  # noqa: B023
        expected = torch.autograd.functional.jacobian(model, x)[0, :, 0].flatten(1).T
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10 * float(1 + expected.abs().max())), seed


@pytest.mark.parametrize("ten", SEEDS)
def test_between_samples_and_products(ten: int) -> None:
    for seed in range(10 * ten, 10 * ten + 10):
        model, shape = random_graph(seed)
        assert_sandwich(model, shape, domain=Box(0.0, 1.0))


@pytest.mark.parametrize("ten", SEEDS)
def test_proofs_agree(ten: int) -> None:
    """On what holds with a clearance, and on what no multipliers can prove."""
    for seed in range(10 * ten, 10 * ten + 10):
        model, shape = random_graph(seed)
        network = trace(model, shape)
        found = power.propose(network, PowerOptions(max_iterations=100))
        if found.multipliers is None or not found.value > 0:
            continue
        certified = lipguard.certify(model, shape, DCPConfig(proof="dense")).certificate
        if not certified.multipliers[0]:
            continue
        (t,) = certified.multipliers[0]
        larger, rho = enlarged_uniformly(network, t, float(certified.forms[0][0]), 0.2)
        for kind in ("dense", "sparse", "randomised"):
            assert proves(Claim(larger, rho, kind, 0.01, 1e-6), network, Means(HINTS)), (seed, kind)
            assert not proves(Claim(t, 0.9 * found.value**2, kind, 1e-4, 1e-6), network, Means(HINTS)), (seed, kind)
