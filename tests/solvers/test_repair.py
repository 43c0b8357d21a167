import numpy as np
import pytest
import torch
from torch import nn

from lipguard.certificate.blocks import form_norm
from lipguard.network.linearised import FreedNetwork
from lipguard.network.trace import trace
from lipguard.solvers.repair import repaired


def freed_network(perturbation: float = 0.0, unread: int | None = None) -> FreedNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += perturbation * torch.randn_like(parameter)
        if unread is not None:
            model[2].weight[:, unread] = 0
    return FreedNetwork.assemble(trace(model, (4,)))


def mend(freed: FreedNetwork, t: np.ndarray, enough: float = 0.0) -> tuple[np.ndarray, float]:
    mended = repaired(t, [5, 6], lambda t: form_norm(freed, t), enough)
    assert mended is not None
    assert mended[1] == form_norm(freed, mended[0])
    return mended


def good_multipliers(freed: FreedNetwork) -> np.ndarray:
    return mend(freed, np.repeat([2.0, 0.5], [5, 6]))[0]


def test_multipliers_slightly_too_small_become_feasible_at_little_cost() -> None:
    freed = freed_network()
    t = good_multipliers(freed)
    smallest = t * 1e-3
    while not np.isfinite(form_norm(freed, smallest)):
        smallest = smallest * 1.01
    infeasible = smallest * 0.98
    assert form_norm(freed, infeasible) == np.inf
    assert np.isfinite(mend(freed, infeasible)[1])


def test_good_multipliers_are_never_made_worse() -> None:
    freed = freed_network()
    t = good_multipliers(freed)
    assert mend(freed, t)[1] <= form_norm(freed, t)


def test_multipliers_of_slightly_other_weights_are_mended() -> None:
    t = good_multipliers(freed_network())
    assert np.isfinite(mend(freed_network(0.05), t)[1])


def test_zero_multipliers_get_a_floor_so_that_no_neuron_is_free() -> None:
    freed = freed_network(unread=2)
    t = good_multipliers(freed)
    t[2] = 0  # as a solver leaves a neuron that nothing reads
    assert form_norm(freed, t) == np.inf
    assert (mend(freed, t)[0] > 0).all()


def test_the_search_ends_at_what_is_enough() -> None:
    freed = freed_network()
    t = good_multipliers(freed)
    calls: list[int] = []

    def counted(t: np.ndarray) -> float:
        calls.append(1)
        return form_norm(freed, t)

    repaired(t, [5, 6], counted, enough=form_norm(freed, t) * 1.001)
    assert len(calls) == 1


def test_where_nothing_helps_there_is_no_answer() -> None:
    assert repaired(np.ones(3), [3], lambda t: np.inf) is None


@pytest.mark.parametrize("layers", [[11], [5, 6]])
def test_earlier_layers_grow_by_more(layers: list[int]) -> None:
    seen: list[np.ndarray] = []

    def record(t: np.ndarray) -> float:
        seen.append(t)
        return np.inf

    repaired(np.ones(11), layers, record)
    assert (seen[-1][0] / seen[-1][-1] > 1.5) == (len(layers) == 2)
