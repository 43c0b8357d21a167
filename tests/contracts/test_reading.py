"""What every row of the table of supported operations owes: an example that is read, compared and sandwiched.

A new row without an example fails here, and says where one belongs.
"""

from __future__ import annotations

import operator
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.reading_examples import examples, of_row, spelled
from helpers.sandwich import assert_sandwich, drawn, sampled
from torch import Tensor, fx, nn

from lipguard.certifying.hints import HINTS
from lipguard.trusted.lmi.freed import propagate
from lipguard.trusted.network.graph import Network
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.norms.product import product_bounds
from lipguard.trusted.reading.builder import BATCH, Builder, Kind, Ref
from lipguard.trusted.reading.choice import OneFunction
from lipguard.trusted.reading.private import PrivateCopy
from lipguard.trusted.reading.refusals import REFUSED, refusal
from lipguard.trusted.reading.table import FAMILIES, TABLE, Table
from lipguard.trusted.reading.trace import trace
from lipguard.trusted.reading.tracer import Tracer, traced_graph
from lipguard.trusted.regions.bounded import bounded

OPERATIONS = [*TABLE.modules, *TABLE.functions]
ROWS = [kind for family in FAMILIES for kind in family.KINDS]
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
# What torch.fx records for functions that it does not see: they are calls of something else.
RECORDED: dict[Any, Any] = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, F.tanh: "tanh", F.sigmoid: "sigmoid",
}  # fmt: skip
every_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=spelled)


def calls(node: fx.Node, operation: Any, root: nn.Module) -> bool:
    if node.op == "call_module":
        return type(root.get_submodule(str(node.target))) is operation
    return node.op in ("call_function", "call_method") and node.target == operation


@every_operation
def test_every_operation_has_examples_that_call_it(operation: Any) -> None:
    where = "module_examples.py" if isinstance(operation, type) else "function_examples.py"
    assert operation in examples(), f"{spelled(operation)} has no example: write one in tests/helpers/{where}"
    for sample in examples()[operation]:
        tracer = Tracer(sample.inputs(BATCH))
        with torch.no_grad():
            graph = traced_graph(PrivateCopy(OneFunction(sample.model)).module, tracer)
        assert any(calls(node, RECORDED.get(operation, operation), tracer.root) for node in graph.nodes), (
            f"no call of {spelled(operation)}"
        )


def test_every_example_is_of_an_operation_of_the_table() -> None:
    assert {spelled(operation) for operation in examples()} == {spelled(operation) for operation in OPERATIONS}


@every_operation
def test_it_is_read_as_the_model_computes_it(operation: Any) -> None:
    for sample in examples()[operation]:
        network = trace(sample.model, sample.input_shape)
        x, y = sample.inputs(7, seed=1), sample.inputs(7, seed=2)
        with torch.no_grad():
            expected, other = sample.model(x.clone()), sample.model(y.clone())
        assert network.output_shape == tuple(expected.shape[1:])
        torch.testing.assert_close(network.forward(x), expected, rtol=1e-12, atol=1e-12)
        if not network.activations:
            differences = propagate(network, x - y, _no_activation)
            torch.testing.assert_close(differences, expected - other, rtol=1e-12, atol=1e-12)


def _no_activation(i: int, a: Tensor) -> Tensor:
    raise AssertionError(f"node {i} is no activation")


def product(network: Network) -> float:
    own = bounded(network, None, HINTS)
    return product_bounds(own, node_norms(own, HINTS))[-1]


@every_operation
def test_its_samples_are_below_the_product_of_its_norms(operation: Any) -> None:
    for sample in examples()[operation]:
        x = drawn(sample.input_shape)
        assert sampled(sample.model, x) <= product(trace(sample.model, sample.input_shape))


@pytest.mark.parametrize("kind", [kind for kind in ROWS if of_row(kind)], ids=lambda kind: spelled(of_row(kind)[0]))
def test_its_bound_is_between_samples_and_the_product(kind: Kind) -> None:
    sample = examples()[of_row(kind)[0]][0]
    assert_sandwich(sample.model, sample.input_shape)


def _rule(builder: Builder, x: Ref) -> Ref:
    return x


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        (Kind(_rule, nn.ReLU), Kind(_rule, nn.ReLU), "ReLU"),
        (Kind(_rule, functions=(torch.relu,)), Kind(_rule, functions=(torch.tanh, torch.relu)), "relu"),
        (Kind(_rule, functions=("relu",)), Kind(_rule, nn.ReLU, functions=("relu",)), "relu"),
        (Kind(_rule, nn.ReLU), Kind(_rule, functions=(torch.tanh, torch.tanh)), "tanh"),
    ],
)
def test_a_second_row_of_an_operation_is_refused(one: Kind, other: Kind, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} has two rows in the table .* Remove one"):
        Table((one, other))


def test_every_row_reads_something() -> None:
    assert all(of_row(kind) for kind in ROWS)


def test_what_is_refused_has_no_row() -> None:
    assert not set(REFUSED) & set(OPERATIONS)


@pytest.mark.parametrize("operation", list(REFUSED), ids=spelled)
def test_a_refusal_says_why_and_what_to_use_instead_in_one_line(operation: Any) -> None:
    met = operation.__new__(operation) if isinstance(operation, type) else operation
    why, instead = REFUSED[operation]
    found = str(refusal("body.2", "name", met))
    assert found == f"body.2: name is not supported. {why} {instead}"
    assert "\n" not in found


UNKNOWN: dict[str, tuple[Any, list[str]]] = {
    "a module": (nn.RReLU(), ["ReLU", "ReLU6", "PReLU"]),
    "a long name": (nn.LPPool2d(2, 2), ["MaxPool2d", "AvgPool2d"]),
    "a function": (F.rrelu, ["relu", "relu6", "prelu"]),
    "a method": ("abs_", ["abs"]),
    "one like none": (torch.bucketize, []),
    "a module like none": (nn.CosineSimilarity(), []),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_is_unknown_is_refused_with_the_nearest_names_and_where_the_list_is(case: str) -> None:
    operation, near = UNKNOWN[case]
    found = str(refusal("body.2", "name", operation))
    assert found.startswith("body.2: name is not supported. There is no rule for it. ")
    named = re.findall(r"The nearest by name: ([\w, ]+)\.", found)
    assert named == ([", ".join(near)] if near else [])
    assert "lipguard.register" in found
    assert "docs/layers.md" in found
    assert "\n" not in found


def test_names_that_users_registered_are_near_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class HouseholderStep(nn.Module):
        pass

    class HouseholderSteps(nn.Module):
        pass

    monkeypatch.setitem(TABLE.own, HouseholderStep, Kind(_rule, HouseholderStep))
    assert "The nearest by name: HouseholderStep." in str(refusal("0", "name", HouseholderSteps()))
