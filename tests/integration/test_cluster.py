"""A real Dask cluster of several worker processes on loopback, some of which die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.networks import with_weights
from torch import nn

import lipguard
from lipguard import DCPConfig

distributed = pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
COUNT = 3


def models() -> list[nn.Module]:
    layers = lambda: [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)]  # noqa: E731
    return [with_weights(nn.Sequential(*layers()), seed) for seed in range(COUNT)]


class Cluster:
    """A scheduler, two workers and a client."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        self.scheduler = self._start("dask_scheduler", "--host", "127.0.0.1", "--port", str(port))
        self.workers = [self.worker() for _ in range(2)]
        self.client = distributed.Client(self.address, timeout=60)
        self.client.wait_for_workers(2, timeout=60)

    def worker(self) -> subprocess.Popen[bytes]:
        return self._start("dask_worker", self.address, "--nthreads", "1", "--no-nanny")

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments, "--no-dashboard"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, **quiet)  # type: ignore[call-overload]

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
        self.client.close(timeout=5)


@pytest.fixture(scope="module")
def one_by_one() -> list[float]:
    """The bounds, certified in this process."""
    return [lipguard.certify(model, (1, 8, 8)).bound for model in models()]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    own = Cluster()
    yield own
    own.close()


def test_bounds_are_those_of_this_process(cluster: Cluster, one_by_one: list[float]) -> None:
    with cluster.client.get_executor() as executor:
        reports = lipguard.certify_many(models(), (1, 8, 8), executor=executor)
        tiles = DCPConfig.paper(max_block_size=200, max_iterations=100)
        split = lipguard.certify(models()[0], (1, 8, 8), tiles, executor=executor)
    assert [report.bound for report in reports] == pytest.approx(one_by_one, rel=1e-4)  # by other threads
    assert all(report.status == "complete" for report in reports)
    assert split.bound == pytest.approx(lipguard.certify(models()[0], (1, 8, 8), tiles).bound, rel=1e-6)


def killed_once_it_works(cluster: Cluster, process: subprocess.Popen[Any]) -> threading.Thread:
    """A thread that kills the process as soon as tasks are being worked on."""

    def watch() -> None:
        while not any(cluster.client.processing().values()):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow  # processes that die are also those of tests/certifying/test_many.py
def test_who_dies_in_the_middle_costs_time_only(cluster: Cluster, one_by_one: list[float]) -> None:
    """A worker, and then the scheduler."""
    for victim in (cluster.workers[0], cluster.scheduler):
        thread = killed_once_it_works(cluster, victim)
        reports = lipguard.certify_many(models(), (1, 8, 8), executor=cluster.client.get_executor(), patience=20.0)
        thread.join(timeout=10)
        assert victim.wait(timeout=10) == -signal.SIGKILL
        assert [report.bound for report in reports] == pytest.approx(one_by_one, rel=1e-4)  # by other threads
        for model, report in zip(models(), reports, strict=True):
            assert lipguard.verify(report.certificate, model) == report.bound
