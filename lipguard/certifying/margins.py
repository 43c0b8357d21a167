"""Certified constants of the margins f_i - f_j of a classifier.

Such a constant is at most sqrt(2) times the network's; a bound of its own is usually far smaller.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from lipguard.certifying.certify import certify_network
from lipguard.certifying.radii import certified_radii
from lipguard.certifying.report import Report
from lipguard.certifying.request import Request, checked_config, device_of
from lipguard.certifying.verify import read_for, verify_network
from lipguard.certifying.warm_start import WarmStart
from lipguard.config import DCPConfig
from lipguard.errors import CertificateError, ConfigError, InvalidNetworkError, expect
from lipguard.trusted.certificate.certificate import Certificate
from lipguard.trusted.certificate.verify import CHANCE
from lipguard.trusted.layers import Linear
from lipguard.trusted.network.graph import Network, Node
from lipguard.trusted.reading.choice import Key
from lipguard.trusted.reading.trace import trace
from lipguard.trusted.regions.region import Domain, in_words
from lipguard.trusted.rounding import mul_up, sqrt_up

Pair = tuple[int, int]
CERTIFIED_ACCURACY = "certified_accuracy_eps_"  # of the keys of rows and logs, before the radius


@dataclass(frozen=True, eq=False)
class Margins:
    """Certified Lipschitz constants of all margins of one network.

    Attributes:
        constants: upper bounds, shape (classes, classes), float64, symmetric, zero on the diagonal.
        reports: of the pairs (i, j), i < j, that have a bound of their own, without lower bounds; others have sqrt(2)
            times the network's.
    """

    constants: Tensor
    reports: Mapping[Pair, Report] = field(default_factory=dict)

    @classmethod
    def of_bound(cls, bound: float, classes: int) -> Margins:
        """What a bound of the whole network says: |f_i - f_j| has sqrt(2) times its constant.

        Raises:
            ValueError: the bound is negative, or no number.
        """
        if not bound >= 0:
            raise ValueError(f"Expected bound to be a number that is not negative, but got {bound!r}.")
        constants = torch.full((classes, classes), mul_up(sqrt_up(2.0), float(bound)), dtype=torch.float64)
        return cls(constants.fill_diagonal_(0.0))

    def certified_radius(self, logits: Tensor, error: Tensor | float | None = None) -> Tensor:
        """How far every sample may be moved, in l2, before the prediction can change; 0 where two classes may tie.

        Args:
            logits: shape (n, classes).
            error: how far logits are from the exact ones of the network that is bounded, at most: a number, or of shape
                (n,) or (n, classes). Without it they are taken to be off by a share of the largest magnitude among a
                sample's logits, by their precision, see `assumed_error`.

        Returns:
            Shape (n,), float64, rounded down.
        """
        return certified_radii(logits, self.constants, error)

    def certificate(self, i: int, j: int) -> Certificate | None:
        """Of the network that has f_i - f_j for its output, i < j, for `verify_margin`; None without its own bound."""
        report = self.reports.get((min(i, j), max(i, j)))
        return None if report is None else report.certificate


def certify_margins(
    model: nn.Module, input_shape: Sequence[int], report: Report, config: DCPConfig | None = None,
    pairs: Sequence[Pair] | None = None, max_seconds: float | None = None, earlier: Margins | None = None,
    optimise: bool = True, *, output: Key | None = None, input: Key | None = None,
    fixed: Mapping[Key, Any] | None = None,
) -> Margins:  # fmt: skip
    """Bounds of margins of their own, one pair after the other.

    Args:
        model: the classifier, with an output of shape (batch, classes).
        input_shape: of one sample.
        report: of `certify`, for the same weights: what pairs without a bound of their own have, and where the
            iteration of each starts.
        config: settings of every pair's certification; `DCPConfig()` by default.
        pairs: of classes, the most important first; all of them if None. See `needed_pairs`.
        max_seconds: after which no pair is begun. A pair that has none keeps sqrt(2) times the network's bound.
        earlier: of the same network a little earlier: its plans and multipliers are where pairs start from.
        optimise: False only proves what the multipliers of `earlier` give for the weights as they are now.
        output, input, fixed: which function of the module, as for `certify`.

    Raises:
        InvalidNetworkError: the output has not one axis, of two classes or more.
        ConfigError: a pair does not name two classes.
        CertificateError: the report belongs to other weights, or holds on a domain only.
        UnsupportedLayerError: as `certify`.
    """
    start, plain = time.monotonic(), checked_config(config)
    expect("report", report, Report, "a Report, of certify")
    with torch.inference_mode(False):
        network = trace(model, input_shape, output=output, input=input, fixed=fixed)
        classes = _classes(network)
        _check_report(report, network)
        found = Margins.of_bound(report.bound, classes)
        constants, reports = found.constants.clone(), {}
        wanted = _checked_pairs(pairs, classes)
        known = dict(earlier.reports) if earlier is not None else {}
        last: Report | None = next(iter(known.values()), None)
        for pair in wanted:
            if max_seconds is not None and time.monotonic() - start > max_seconds:
                break
            before = known.get(pair)
            if before is None and not optimise:
                continue
            warm = None if before is None else before.warm_start
            if warm is None and last is not None:  # a plan for the same architecture, and the whole network's vectors
                own = report.warm_start
                warm = WarmStart(last.certificate, own.solver_state, plan=last.plan)
            request = Request(
                margin_network(network, *pair), plain, warm, None, optimise, device_of(model), sought=False
            )
            last = reports[pair] = certify_network(request, time.monotonic())
            i, j = pair
            constants[i, j] = constants[j, i] = min(float(constants[i, j]), last.bound)
            if last.status.is_interrupted:
                break
    return Margins(constants, reports)


def verify_margin(
    certificate: Certificate, model: nn.Module, i: int, j: int, *, domain: Domain | None = None,
    failure_probability: float = CHANCE, deterministic: bool = False, fresh: bool = False, output: Key | None = None,
    input: Key | None = None, fixed: Mapping[Key, Any] | None = None,
) -> float:  # fmt: skip
    """Prove the bound of a margin f_i - f_j anew, as `lipguard.verify` does for a network, with the same arguments.

    Raises:
        CertificateError: the certificate does not prove its bound for these weights and this pair.
        ConfigError: the pair does not name two classes; otherwise as `lipguard.verify`.
        InvalidNetworkError: the output has not one axis, of two classes or more.
    """
    network = read_for(certificate, model, output, input, fixed)
    ((i, j),) = _checked_pairs([(i, j)], _classes(network))
    return verify_network(
        certificate, margin_network(network, i, j), domain=domain, failure_probability=failure_probability,
        deterministic=deterministic, fresh=fresh,
    )  # fmt: skip


def accuracy_key(epsilon: float) -> str:
    """What certified accuracy at a radius is called in rows and logs."""
    return f"{CERTIFIED_ACCURACY}{epsilon:g}"


def needed_pairs(logits: Tensor) -> list[Pair]:
    """Pairs of classes in the order in which their constants matter: how often one is predicted and the other next."""
    classes = logits.shape[1]
    if classes < 2 or not len(logits):
        return []
    top = logits.detach().topk(2, 1).indices.sort(1).values
    counts = torch.bincount(top[:, 0] * classes + top[:, 1], minlength=classes * classes)
    order = counts.argsort(descending=True, stable=True)
    return [(int(k) // classes, int(k) % classes) for k in order if int(k) // classes < int(k) % classes]


def margin_network(network: Network, i: int, j: int) -> Network:
    """The network with f_i - f_j for its output; rows of a last matrix are subtracted, with one rounding."""
    row = torch.zeros(1, _classes(network), dtype=torch.float64)
    row[0, i], row[0, j] = 1.0, -1.0
    *before, last = network.nodes
    if isinstance(last.layer, Linear) and not last.layer.weight_ulps:
        weight, bias = last.layer.weight, last.layer.bias
        layer = Linear(weight[i : i + 1] - weight[j : j + 1], None if bias is None else row @ bias, 1)
        return Network((*before, dataclasses.replace(last, layer=layer, shape=(1,))))
    node = Node(f"margin {i}-{j}", Linear(row), (len(network.nodes) - 1,), (1,))
    return Network((*network.nodes, node))


def _check_report(report: Report, network: Network) -> None:
    """Its bound is believed: it has to be one of this network, for all inputs."""
    certificate = report.certificate
    if certificate.digest != network.digest:
        raise CertificateError("The report belongs to other weights, or to another network: certify it again.")
    if certificate.domain is not None:
        raise CertificateError(
            f"The report holds on {in_words(certificate.domain)} only, and margins are of all inputs: pass the report "
            "that `certify` returned, not its `restricted`."
        )


def _classes(network: Network) -> int:
    shape = network.output_shape
    if len(shape) != 1 or shape[0] < 2:
        raise InvalidNetworkError(
            "Margins need an output of shape (batch, classes) with two classes or more, but the model's has the shape "
            f"{('batch', *shape)}."
        )
    return shape[0]


def _checked_pairs(pairs: Sequence[Pair] | None, classes: int) -> list[Pair]:
    if pairs is None:
        return list(itertools.combinations(range(classes), 2))
    for pair in pairs:
        if not _is_pair(pair, classes):
            raise ConfigError(f"Expected pairs of two of {classes} classes, but got {pair!r}.")
    return list(dict.fromkeys((min(pair), max(pair)) for pair in pairs))


def _is_pair(pair: object, classes: int) -> bool:
    if not isinstance(pair, Sequence) or len(pair) != 2 or pair[0] == pair[1]:
        return False
    return all(isinstance(k, Integral) and 0 <= int(k) < classes for k in pair)
