"""Tiny networks take one thread; whatever happens, the process has as many as before."""

import threading

import pytest
import torch
from torch import nn

import lipguard
from lipguard.certifying import plans
from lipguard.certifying.threads import few_threads
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.trace import trace


def network(width: int) -> Network:
    return trace(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)).eval(), (width,))


@pytest.fixture(autouse=True)
def two() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_small_network_has_one_thread_and_gives_them_back() -> None:
    with few_threads(network(8)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_a_large_network_keeps_its_threads() -> None:
    with few_threads(network(600)):
        assert torch.get_num_threads() == 2


def test_another_thread_changes_nothing() -> None:
    seen = []

    def work() -> None:
        before = torch.get_num_threads()
        with few_threads(network(8)):
            seen.append(torch.get_num_threads() == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


def test_threads_come_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        assert torch.get_num_threads() == 1
        raise KeyError("on purpose")

    monkeypatch.setattr(plans, "find_plan", fail)
    with pytest.raises(KeyError):
        lipguard.certify(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,))
    assert torch.get_num_threads() == 2


def test_the_library_of_numpy_is_limited_too_where_that_can_be_done() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def counts() -> list[int]:
        return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]

    before = counts()
    with few_threads(network(8)):
        assert set(counts()) <= {1}
    assert counts() == before
