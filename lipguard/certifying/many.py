"""`certify_many`: checkpoints, class pairs or any other networks, side by side."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import torch
from torch import nn

from lipguard.certifying.certify import certify_network
from lipguard.certifying.report import Report
from lipguard.certifying.request import Request, checked_config
from lipguard.certifying.status import Outcome, Status
from lipguard.certifying.warm_start import WarmStart
from lipguard.config import DCPConfig
from lipguard.errors import LipguardError
from lipguard.planning.search import find_plan
from lipguard.proposing.conic.jobs import workers_for
from lipguard.proposing.processes import run_all
from lipguard.trusted.reading.choice import Key
from lipguard.trusted.reading.trace import trace

_LOG = logging.getLogger(__name__)


def certify_many(
    models: Sequence[nn.Module],
    input_shape: Sequence[int],
    config: DCPConfig | None = None,
    warm_starts: Sequence[Report | WarmStart | None] | None = None,
    progress: bool = False,
    *,
    executor: Executor | None = None,
    patience: float = 600.0,
    output: Key | None = None,
    input: Key | None = None,
    fixed: Mapping[Key, Any] | None = None,
) -> list[Report]:
    """Certify several networks, each as `certify` does, in processes of this machine or in any executor.

    Args:
        models: torch modules of supported layers.
        input_shape: shape of one sample, the same for all of them, without the batch axis.
        config: settings; `max_seconds` is per network, `workers` the number of processes (None takes one per core if
            the work is worth their start).
        warm_starts: for every network an earlier result of its architecture, or None.
        progress: show a progress bar of the networks.
        executor: what certifies them instead, such as `dask.distributed.Client(...).get_executor()`; lipguard must be
            installed where it runs.
        patience: seconds without any report after which the executor counts as gone, and this machine goes on.
        output, input, fixed: which function of each module, as for `certify`.

    Returns:
        The reports, in the order of the models. A network whose process dies twice, or that no executor can do any
        more, has the product of its norms, and a status that says why.

    Raises:
        UnsupportedLayerError, InvalidNetworkError: a network cannot be bounded.
        ConfigError: the settings do not fit a network, or processes were asked for and loky is not installed.
        ValueError: there is not one warm start per model.
    """
    config = checked_config(config)
    starts = [None] * len(models) if warm_starts is None else list(warm_starts)
    if len(starts) != len(models):
        raise ValueError(f"Expected {len(models)} warm starts, one per model, but got {len(starts)}.")
    own = dataclasses.replace(config, workers=1)
    requests = []
    for model, start in zip(models, starts, strict=True):
        warm = start.warm_start if isinstance(start, Report) else start
        requests.append(Request(trace(model, input_shape, output=output, input=input, fixed=fixed), own, warm))
    if not requests:
        return []
    seconds = find_plan(requests[0].network, own).seconds
    workers = workers_for([seconds] * len(requests), config.workers)
    found: dict[int, Report] = {}
    for i, report in _watched(_reports(requests, workers, executor, patience), len(requests), progress):
        found[i] = report
    return [found[i] for i in range(len(requests))]


def _reports(
    requests: Sequence[Request], workers: int, executor: Executor | None, patience: float
) -> Iterator[tuple[int, Report]]:
    if workers == 1 and executor is None:
        for i, request in enumerate(requests):
            yield i, certify_network(request, time.monotonic())
        return
    threads = None if executor is not None else max(1, torch.get_num_threads() // workers)
    # As bytes: torch would send its tensors through shared memory, which not every executor has.
    tasks = [(pickle.dumps(request), threads) for request in requests]
    for i, result in run_all(certified, tasks, workers, executor, patience=patience):
        if isinstance(result, LipguardError):
            raise result
        if isinstance(result, Exception):
            _LOG.warning("Network %d has no more than its product of norms: %r", i, result)
            unsolved = dataclasses.replace(requests[i], optimise=False, warm=None)
            status = Status(Outcome.FALLBACK, f"{type(result).__name__}: {result}")
            result = dataclasses.replace(certify_network(unsolved, time.monotonic()), status=status)
        yield i, result


def certified(request: bytes, threads: int | None) -> Report:
    """The report of a pickled `Request`, in a worker process of so many threads; None leaves them as they are."""
    if threads is not None:
        torch.set_num_threads(threads)
    with torch.inference_mode(False):
        return certify_network(pickle.loads(request), time.monotonic())


def _watched(reports: Iterator[tuple[int, Report]], total: int, progress: bool) -> Iterator[tuple[int, Report]]:
    from tqdm import tqdm  # comes with Lightning

    with tqdm(total=total, desc="networks", disable=not progress, leave=False) as bar:
        for item in reports:
            yield item
            bar.update()
