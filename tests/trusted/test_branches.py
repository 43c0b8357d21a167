"""Code that checks, logs and prints is traced; a branch that computes something else for some input is refused."""

from __future__ import annotations

import itertools
import logging
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.forward import Forward
from helpers.networks import with_weights
from torch import Tensor, nn

from lipguard.errors import InvalidNetworkError
from lipguard.trusted.reading import branches
from lipguard.trusted.reading.trace import trace


def net() -> nn.Module:
    return with_weights(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), 0)


pytestmark = pytest.mark.filterwarnings("ignore:nan", "ignore:large")
EXPECTED = trace(net(), (4,)).digest


def read(call: Callable[[Any, Any], Any]) -> str:
    return trace(Forward(call, net=net(), scale=nn.Parameter(torch.tensor(2.0).double()), seen=None), (4,)).digest


def asserts(m: Any, x: Any) -> Any:
    assert torch.isfinite(x).all(), "not finite"
    assert x.abs().max() < 1e30
    return m.net(x)


def raises(m: Any, x: Any) -> Any:
    if not torch.isfinite(x).all() or (x.abs() > 1e30).any():
        raise ValueError(f"bad input: {x.min():.3f} to {x.max():.3f}")
    return m.net(x)


def divides(m: Any, x: Any) -> Any:
    _ = None if (x == x).all() else 1 / 0
    return m.net(x)


def warns(m: Any, x: Any) -> Any:
    if torch.isnan(x).any():
        warnings.warn("nan", stacklevel=1)
    return m.net(x)


def checked_elsewhere(m: Any, x: Any) -> Any:
    y = m.net(x)
    _refuse_nan(y)
    return y


def _refuse_nan(y: Any) -> None:
    if torch.isnan(y).any():
        raise RuntimeError("nan")


def checks_types(m: Any, x: Any) -> Any:
    if not isinstance(x, torch.Tensor) or not torch.is_tensor(x) or isinstance(x, (list, tuple, nn.Parameter)):
        raise TypeError("a tensor")
    if not torch.is_floating_point(x) or x.is_complex() or x.is_sparse or x.requires_grad or hasattr(x, "mask"):
        raise TypeError("of another kind")
    return m.net(x) if x.dim() == 2 and x.is_contiguous() and x.numel() == 4 * len(x) else None


def logs(m: Any, x: Any) -> Any:
    y = m.net(x)
    m.seen = y.detach().exp().mean().item()
    print("mean", y.mean(), f"{y.std():.3f} of {y}")
    logging.getLogger(__name__).debug("y %s", y)
    return y


def weighs(m: Any, x: Any) -> Any:
    return m.net(x) if m.scale > 1 and float(m.scale) == 2.0 and int(m.scale) == 2 else x


READ: dict[str, Callable[[Any, Any], Any]] = {
    "assert": asserts, "raise": raises, "a division by zero": divides, "a warning": warns,
    "a check in a function": checked_elsewhere, "types": checks_types, "logs": logs, "weights": weighs,
    "a branch that changes nothing": lambda m, x: m.net(x) if x.sum() > 0 else m.net(1 * x),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_what_changes_nothing_is_read(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert read(READ[case]) == EXPECTED
    assert not capsys.readouterr().out


def handles(m: Any, x: Any) -> Any:
    try:
        assert (x.abs() < 1e6).all()
    except AssertionError:
        return 2 * m.net(x)
    return m.net(x)


def raises_behind_another_branch(m: Any, x: Any) -> Any:
    if (x.abs() > 1e6).any():
        if (x > 0).all():
            return 2 * m.net(x)
        raise ValueError("too large")
    return m.net(x)


def raises_for_what_traces(m: Any, x: Any) -> Any:
    if (x.abs() > 1e6).any():
        if type(x) is not torch.Tensor:
            raise ValueError("traced")
        return 2 * m.net(x)
    return m.net(x)


def raises_for_what_runs(m: Any, x: Any) -> Any:
    if (x.abs() > 1e6).any():
        if type(x) is torch.Tensor:
            raise ValueError("runs")
        return 2 * m.net(x)
    return m.net(x)


def fails_for_what_traces(m: Any, x: Any) -> Any:
    if (x.abs() > 1e6).any():
        return 2 * m.net(torch.from_numpy(x.numpy() + "" if type(x) is not torch.Tensor else x.numpy()))
    return m.net(x)


def raises_for_the_example(m: Any, x: Any) -> Any:
    large = x.abs() > 1e6
    if large.any():
        if len(large.nonzero()) == 0:
            raise ValueError("cannot be")
        return 2 * m.net(x)
    return m.net(x)


def fails_for_the_example(m: Any, x: Any) -> Any:
    large = x.abs() > 1e6
    if large.any():
        if type(x) is not torch.Tensor:
            raise ValueError("traced")
        return 2 * m.net(x) + 0 * large.nonzero()[0, 0]
    return m.net(x)


def fails_for_batches_of_three(m: Any, x: Any) -> Any:
    if (x.abs() > 1e6).any():
        return (2, 2, 2)[len(x)] * m.net(x)
    return m.net(x)


def looks_up(m: Any, x: Any) -> Any:
    large = x.abs() > 1e6
    if large.any():
        return {5: 2.0}[large.sum().item()] * m.net(x)  # which no example has
    return m.net(x)


def differs_far_away(m: Any, x: Any) -> Any:
    if (x.abs() > 1e6).any():
        return m.net(x) + torch.relu(x[:, :3] - 1e6)
    return m.net(x)


def raises_for_batches_of_three(m: Any, x: Any) -> Any:
    if (x.abs() > 1e6).any():
        if len(x) == 3:
            raise ValueError("three")
        return 2 * m.net(x)
    return m.net(x)


def computes_the_same_for_batches_of_three(m: Any, x: Any) -> Any:
    if (x.abs() > 1e6).any() and len(x) != 3:
        return 2 * m.net(x)
    return m.net(x)


def asks_elsewhere_for_what_runs(m: Any, x: Any) -> Any:
    large = (x.abs() > 1e6).any()
    if type(x) is torch.Tensor:
        return 2 * m.net(x) if large else m.net(x)
    if large:
        return m.net(x)
    return m.net(x)


def counts(m: Any, x: Any) -> Any:
    return m.net(x) * (1 + x[x > 1e6].shape[0])


def takes_a_number(m: Any, x: Any) -> Any:
    return m.net(x) * (2.0 if float(x.max()) > 1e6 else 1.0)


def formats(m: Any, x: Any) -> Any:
    return m.net(x) * (2.0 if f"{x.max() > 1e6}" == "True" else 1.0)


def loops(m: Any, x: Any) -> Any:
    y = m.net(x)
    while y.abs().max() > 1:
        y = y / 2
    return y


REFUSED: dict[str, Callable[[Any, Any], Any]] = {
    "a handled error": handles, "a branch behind a branch": raises_behind_another_branch,
    "an error for what traces": raises_for_what_traces, "an error for what runs": raises_for_what_runs,
    "an error of the tracer": fails_for_what_traces, "an error of the example": raises_for_the_example,
    "another error of the example": fails_for_the_example, "an error of the batch": raises_for_batches_of_three,
    "a failure of the batch": fails_for_batches_of_three, "the batch": computes_the_same_for_batches_of_three,
    "another line": asks_elsewhere_for_what_runs, "a key that no example has": looks_up,
    "what no probe shows": differs_far_away,
    "a number of entries": counts, "a number": takes_a_number, "a loop": loops,
    "the other side": lambda m, x: m.net(x) if (x.abs() < 1e6).all() else 2 * m.net(x),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_branch_that_no_probe_takes_is_found(case: str) -> None:
    with pytest.raises(InvalidNetworkError, match="control flow depends on data"):
        read(REFUSED[case])


SAID: list[str] = []


def says(m: Any, x: Any) -> Any:
    if type(x) is not torch.Tensor:
        SAID.append(f"{x.max():.3f} {x} {x.sum() > 0}")
    return m.net(x)


def test_words_hold_nothing_of_values() -> None:
    read(says)
    assert not re.search(r"\d\.\d|True|False|tensor", " ".join(SAID))
    assert read(formats) == EXPECTED  # what it computes for inputs above 1e6 shows where batches are compared
    with pytest.raises(InvalidNetworkError, match="does not reproduce"):
        read(lambda m, x: m.net(x) * (2.0 if f"{x.max() > 9}" == "True" else 1.0))


def test_there_is_an_end_of_branches() -> None:
    def many(m: Any, x: Any) -> Any:
        for k in range(branches._MOST_WAYS + 1):
            if (x > k).all():
                warnings.warn("large", stacklevel=1)
        return m.net(x)

    with pytest.raises(InvalidNetworkError, match="control flow"):
        read(many)


def test_answers_are_forced_in_order() -> None:
    answers = branches.Answers((True, False))
    assert [answers.to("here", False) for _ in range(4)] == [True, False, False, False]
    assert list(answers.others()) == [(True, False, True), (True, False, False, True)]


def test_all_ways_of_two_branches_are_gone() -> None:
    ways = []

    def ask(answers: branches.Answers | None) -> bool:
        return bool(torch.tensor(True)) if answers is None else answers.to("here", True)  # both on one line

    def traced(answers: branches.Answers) -> Any:
        ways.append((ask(answers), ask(answers)))
        return trace(net(), (4,))

    def run(size: int) -> Tensor:
        ask(None)
        ask(None)
        return torch.ones(size)

    branches.read_on_all_branches(traced, run)
    assert sorted(ways) == sorted(itertools.product((False, True), repeat=2))


class Counting(nn.Module):
    """Keeps how often it was called, and never reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.isnan(x).any()
        return self.net(x)  # type: ignore[no-any-return]


def test_isinstance_and_print_are_themselves_again() -> None:
    before = isinstance, print
    trace(Counting(), (4,))
    with pytest.raises(InvalidNetworkError):
        read(handles)
    assert (isinstance, print) == before
