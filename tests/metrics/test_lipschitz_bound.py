"""LipschitzBound as a torchmetrics metric."""

from __future__ import annotations

import copy
import doctest
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lipguard import DCPConfig, LipschitzBound
from lipguard.errors import ConfigError, UnsupportedLayerError
from lipguard.metrics import lipschitz_bound


def diagonal(*entries: float) -> nn.Linear:
    layer = nn.Linear(len(entries), len(entries))
    layer.weight.data.copy_(torch.diag(torch.tensor(entries)))
    return layer


def network() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    for parameter in net.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return net


def test_the_exact_constant_of_a_linear_layer() -> None:
    metric = LipschitzBound(input_shape=(2,))
    metric.update(diagonal(3.0, 1.0))
    value = metric.compute()
    assert value.dtype == torch.float64
    assert value.shape == ()
    assert 3 <= float(value) <= 3 * (1 + 1e-6)


def test_the_value_is_of_the_last_update() -> None:
    metric = LipschitzBound(input_shape=(2,))
    metric.update(diagonal(3.0, 1.0))
    metric.update(diagonal(0.5, 0.25))
    assert float(metric.compute()) == pytest.approx(0.5)
    assert metric.update_count == 2


def test_forward_keeps_no_maximum_and_bounds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = lipschitz_bound.certify
    monkeypatch.setattr(lipschitz_bound, "certify", lambda *a, **k: calls.append(k) or real(*a, **k))
    metric = LipschitzBound(input_shape=(2,))
    first, second = metric(diagonal(3.0, 1.0)), metric(diagonal(0.5, 0.25))
    assert float(first) == pytest.approx(3.0)
    assert float(second) == pytest.approx(0.5)
    assert float(metric.compute()) == pytest.approx(0.5)
    assert len(calls) == 2
    assert calls[0]["warm_start"] is None
    assert calls[1]["warm_start"] is not None


def test_lightning_logs_what_forward_returned() -> None:
    metric = LipschitzBound(input_shape=(2,))
    assert metric(diagonal(2.0, 1.0)) is metric._forward_cache


def test_compute_before_update_warns() -> None:
    metric = LipschitzBound(input_shape=(2,))
    with pytest.warns(UserWarning, match="was called before the ``update`` method"):
        assert metric.compute() == math.inf


def test_reset() -> None:
    metric = LipschitzBound(input_shape=(2,))
    metric.update(diagonal(3.0, 1.0))
    metric.reset()
    assert not metric.update_called
    metric.update(diagonal(2.0, 1.0))
    assert float(metric.compute()) == pytest.approx(2.0)


def test_a_failed_update_leaves_no_bound_of_other_weights() -> None:
    metric = LipschitzBound(input_shape=(2,))
    metric.update(diagonal(3.0, 1.0))
    with pytest.raises(UnsupportedLayerError):
        metric.update(nn.Sequential(nn.Linear(2, 2), nn.Hardshrink()))
    assert metric.compute() == math.inf


def test_modes_gradients_and_random_state_are_left_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3))
    model[3].eval()
    flags, weights = [module.training for module in model.modules()], copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    LipschitzBound(input_shape=(4,))(model)
    assert [m.training for m in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_in_a_collection_with_other_metrics() -> None:
    model, x = network(), torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    collection = MetricCollection(
        {
            "acc": MulticlassAccuracy(num_classes=3),
            "lip": LipschitzBound((4,)),
            "cheap": LipschitzBound((4,), DCPConfig(partition="cuts", max_block_size=12)),
        }
    )
    for _ in range(2):
        collection.update(preds=model(x), target=torch.zeros(5, dtype=torch.long), model=model)
    values = collection.compute()
    alone = LipschitzBound((4,))
    alone.update(model)
    assert values["lip"] == pytest.approx(float(alone.compute()), rel=1e-2)
    assert set(values) == {"acc", "lip", "cheap"}
    # Metrics of different configurations must not share a compute group.
    assert {frozenset(group) for group in collection.compute_groups.values()} == {
        frozenset({"acc"}),
        frozenset({"lip"}),
        frozenset({"cheap"}),
    }


def test_equal_configurations_have_equal_state_names() -> None:
    metrics = LipschitzBound([4]), LipschitzBound((4,), DCPConfig()), LipschitzBound((4,), DCPConfig(seed=1))
    first, second, other = (set(metric.metric_state) for metric in metrics)
    assert first == second != other


class SelfMeasuring(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.lipschitz = LipschitzBound(input_shape=(4,))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_as_an_attribute_of_the_measured_model() -> None:
    model = SelfMeasuring()
    names = set(model.state_dict())
    model.lipschitz.update(model)
    bound = model.lipschitz.compute()
    assert set(model.state_dict()) == names == {f"net.{name}" for name in network().state_dict()}
    model.eval().to("cpu").train()
    assert copy.deepcopy(model).lipschitz.compute() == bound
    model.half()
    assert model.lipschitz.compute().dtype == torch.float64
    assert model.lipschitz.compute() == bound


def test_it_can_be_cloned_and_pickled() -> None:
    metric = LipschitzBound(input_shape=(4,))
    metric.update(network())
    for copied in (metric.clone(), pickle.loads(pickle.dumps(metric))):
        assert copied.compute() == metric.compute()
        copied.update(network())  # from the copied warm start


def test_across_processes_the_largest_bound_counts() -> None:
    other = torch.tensor(7.0, dtype=torch.float64)
    metric = LipschitzBound(
        input_shape=(2,),
        dist_sync_fn=lambda value, group: [value, other],
        distributed_available_fn=lambda: True,
    )
    assert float(metric(diagonal(3.0, 1.0))) == pytest.approx(3.0)  # forward is of this process
    assert metric.compute() == 7
    metric.update(diagonal(9.0, 1.0))
    assert float(metric.compute()) == pytest.approx(9.0)


def test_constants() -> None:
    metric = LipschitzBound(input_shape=(2,))
    constants = (metric.is_differentiable, metric.higher_is_better, metric.full_state_update, metric.plot_lower_bound)
    assert constants == (False, False, False, 0.0)


def test_plot() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    metric = LipschitzBound(input_shape=(2,))
    values = [metric(diagonal(scale, 1.0)) for scale in (1.0, 2.0)]
    figure, _ = metric.plot(values)
    assert figure is not None
    pyplot.close("all")


@pytest.mark.parametrize(
    "arguments",
    [{"input_shape": ()}, {"input_shape": 4}, {"input_shape": (0,)}, {"input_shape": (4,), "config": {"seed": 1}}],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="but got"):
        LipschitzBound(**arguments)


def test_something_that_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Expected model to be a torch.nn.Module, but got Tensor"):
        LipschitzBound(input_shape=(4,)).update(torch.zeros(4))


def test_the_docstring_runs() -> None:
    result = doctest.testmod(lipschitz_bound)
    assert result.attempted > 0
    assert result.failed == 0
