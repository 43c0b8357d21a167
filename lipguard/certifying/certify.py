"""`certify` and `plan`, for a torch module; `certify_network`, for what is read already."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from lipguard.certifying.budget import Budget
from lipguard.certifying.hints import HINTS
from lipguard.certifying.plans import new_plan
from lipguard.certifying.report import Report
from lipguard.certifying.request import Request, checked_config, device_of
from lipguard.certifying.run import run
from lipguard.certifying.status import Outcome, Status
from lipguard.certifying.threads import few_threads
from lipguard.certifying.warm_start import WarmStart
from lipguard.config import DCPConfig
from lipguard.errors import InvalidNetworkError, UnsupportedLayerError, expect
from lipguard.planning.plan import PartitionPlan
from lipguard.trusted.certificate.certificate import Certificate
from lipguard.trusted.network.graph import Network
from lipguard.trusted.norms.matrices import LateNormError
from lipguard.trusted.reading.choice import Key
from lipguard.trusted.reading.trace import trace
from lipguard.trusted.regions.bounded import bounded
from lipguard.trusted.regions.region import Domain, checked_domain, in_words
from lipguard.trusted.rounding import subnormal_numbers


def certify(
    model: nn.Module, input_shape: Sequence[int], config: DCPConfig | None = None,
    warm_start: Report | WarmStart | Certificate | None = None, progress: bool = False, *,
    data: Tensor | None = None, domain: Domain | None = None, optimise: bool = True, executor: Executor | None = None,
    output: Key | None = None, input: Key | None = None, fixed: Mapping[Key, Any] | None = None,
) -> Report:  # fmt: skip
    """Certify an upper bound of the Lipschitz constant of `model` (l2 to l2, over all inputs, in eval mode).

    Args:
        model: a torch module, or LightningModule, of supported layers, in whatever mode. What wraps a module and
            changes nothing (torch.compile, DataParallel, DDP, Fabric, averaged weights) is looked through.
        input_shape: shape of one sample, without the batch axis.
        config: settings; `DCPConfig()` by default.
        warm_start: an earlier result for the same architecture: its plan is reused and its multipliers are the start.
        progress: show a progress bar of the solves.
        data: samples, shape ``(n, *input_shape)``, from which the search for the lower bound starts.
        domain: `Box(0, 1)` or a `Ball`: inputs on which another bound is asked for, in `report.restricted`. A network
            with products of what depends on the input, or with functions that are steep far from zero, has a bound
            there only: then it is the report itself, and its certificate says where it holds.
        optimise: False only proves what the multipliers of `warm_start` give for the weights as they are now.
        executor: solves the LMIs of a conic solver, instead of processes of this machine.
        output: which output, where the model returns several: its name (in a dict, a dataclass, a named tuple) or its
            place. The only tensor among them needs none. "logits" and "probabilities" say whether a last softmax
            belongs to the network.
        input: which argument of `forward` is the input, by name or place; the first that is not fixed if None. A name
            that is none of its arguments is an entry of the dict that it takes.
        fixed: its other arguments by name or place, such as ``{"t": torch.tensor(0.5)}``, of one sample; those with
            a default need none. They are constants of the network that is bounded, which its digest covers.

    Returns:
        The report. A solver that fails, or a budget that ends, costs tightness only; `report.status` says so.

    Raises:
        UnsupportedLayerError, InvalidNetworkError: the network cannot be bounded.
        ConfigError: the settings do not fit the network.
        CertificateError: bounds contradict each other, or an activation has a slope that it cannot have: an error in
            lipguard, or in what was registered.
    """
    start = time.monotonic()
    config = checked_config(config)
    expect("warm_start", warm_start, (Report, WarmStart, Certificate, NoneType), "a Report, a Certificate or None")
    expect("data", data, (Tensor, NoneType), "a tensor of samples, or None")
    checked_domain(domain)
    with torch.inference_mode(False):  # the search for the lower bound differentiates
        network = trace(model, input_shape, output=output, input=input, fixed=fixed)
        end = Budget.of(config, start).deadline
        if domain is not None and _everywhere(network) is None:
            request = Request(network, config, _warm(warm_start), data, optimise, device_of(model), domain)
            return _there_only(certify_network(request, start, progress, executor), domain)
        if domain is not None and config.max_seconds is not None:  # two runs share one budget
            config = dataclasses.replace(config, max_seconds=config.max_seconds / 2)
        request = Request(network, config, _warm(warm_start), data, optimise, device_of(model))
        report = certify_network(request, start, progress, executor)
        if domain is None:
            return report
        earlier = _warm(warm_start.restricted if isinstance(warm_start, Report) else None)
        request = dataclasses.replace(request, warm=earlier, optimise=optimise or earlier is None, domain=domain)
        return _with_domain(report, request, progress, executor, end)


def plan(
    model: nn.Module, input_shape: Sequence[int], config: DCPConfig | None = None, *, domain: Domain | None = None,
    output: Key | None = None, input: Key | None = None, fixed: Mapping[Key, Any] | None = None,
) -> PartitionPlan:  # fmt: skip
    """The partition that `certify` would use for the same arguments, without solving; `print` it.

    Args:
        model, input_shape, config: as for `certify`.
        domain: where the network is to be bounded, for one that has a bound on such inputs only.

    Raises:
        UnsupportedLayerError, InvalidNetworkError, ConfigError: as `certify`.
    """
    config, start = checked_config(config), time.monotonic()
    checked_domain(domain)
    with torch.inference_mode(False):
        network = trace(model, input_shape, output=output, input=input, fixed=fixed)
        if network.steep:
            network = _everywhere(network) or bounded(network, domain, HINTS)
        return new_plan(network, Budget.of(config, start, device=device_of(model)))


def certify_network(
    request: Request, start: float, progress: bool = False, executor: Executor | None = None,
    deadline: float | None = None,
) -> Report:  # fmt: skip
    """`certify` of a network that is traced already.

    Args:
        request: what is to be certified.
        start: when it began, of `time.monotonic()`.
        progress: show a progress bar of the solves.
        executor: as for `certify`.
        deadline: of `time.monotonic()`, at which the result has to be there; by default where the budget of
            the settings ends.

    Raises:
        LateNormError: there is no time to read what a domain makes of the network.
    """
    budget = Budget.of(request.config, start, deadline, request.device)
    with few_threads(request.network), subnormal_numbers():
        return run(request, budget, progress, executor)


def _with_domain(
    report: Report, request: Request, progress: bool, executor: Executor | None, deadline: float
) -> Report:
    """The report, with that of a domain: what holds everywhere holds there, too."""
    try:
        within = certify_network(request, time.monotonic(), progress, executor, deadline)
    except LateNormError:
        status = Status(Outcome.FALLBACK, "no time for the slopes on the domain")
        within = dataclasses.replace(report, lower_bound=0.0, status=status)
    else:
        if within.bound >= report.bound:
            within = dataclasses.replace(report, lower_bound=within.lower_bound, notes=within.notes)
    return dataclasses.replace(report, restricted=within)


def _there_only(report: Report, domain: Domain) -> Report:
    """The report of a network that is bounded on a domain alone: what is asked for there is the report itself.

    Raises:
        InvalidNetworkError: norms multiply to more than a float can hold, and nothing else is proved.
    """
    if not math.isfinite(report.bound):
        raise InvalidNetworkError(
            f"The bound on {in_words(domain)} is beyond what double precision can hold. Name a smaller domain."
        )
    note = f"the bound holds on {in_words(domain)} only: no bound is known that holds for all inputs"
    found = dataclasses.replace(report, notes=(*report.notes, note))
    return dataclasses.replace(found, restricted=found)


def _everywhere(network: Network) -> Network | None:
    """What a bound for all inputs is proved of; None where none is known."""
    try:
        return bounded(network, None, HINTS)
    except UnsupportedLayerError:
        return None


def _warm(source: Report | WarmStart | Certificate | None) -> WarmStart | None:
    if isinstance(source, Report):
        return source.warm_start
    return WarmStart(source) if isinstance(source, Certificate) else source
