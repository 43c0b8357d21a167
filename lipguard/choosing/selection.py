"""Choosing a checkpoint that is accurate and provably smooth, among those of one or many runs.

What is compared was logged while the networks trained, and is in their checkpoints. The bound of the one that is chosen
is proved again, from its certificate, before it is named; accuracies are as logged. A bound that belongs to other
weights, or to a part of the inputs, takes no part.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lipguard.certifying.margins import CERTIFIED_ACCURACY
from lipguard.certifying.verify import verify
from lipguard.errors import CertificateError, ConfigError, LipguardError
from lipguard.trusted.certificate.certificate import Certificate
from lipguard.trusted.certificate.verify import CHANCE
from lipguard.trusted.reading.trace import trace


@dataclass(frozen=True, eq=False)
class Candidate:
    """A checkpoint, and what its monitor knew of its weights.

    Attributes:
        path: of the file.
        epoch: after which it was saved.
        bound: certified.
        accuracy: on the run's validation data.
        certified: certified accuracy by radius, as the run logged it: it is not proved again, for that takes the data.
        certificate: of the bound.
    """

    path: Path
    epoch: int
    bound: float
    accuracy: float
    certified: Mapping[float, float]
    certificate: Certificate


@dataclass(frozen=True, eq=False)
class Selection:
    """What was compared, and what came of it.

    Attributes:
        candidates: all that have a bound of their own weights, by bound.
        front: those that no other one beats in both accuracy and bound (or certified accuracy, at a radius).
        chosen: by the rule, with a bound that was proved again.
        rule: in words.
        refused: path and reason of what takes no part.
    """

    candidates: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    chosen: Candidate
    rule: str
    refused: Mapping[Path, str] = field(default_factory=dict)

    def __str__(self) -> str:
        from lipguard.planning.table import table

        radii = sorted({radius for c in self.candidates for radius in c.certified})
        header = ("", "checkpoint", "epoch", "accuracy", "bound", *(f"certified at {r:g}, as logged" for r in radii))
        rows = []
        for c in self.candidates:
            mark = "chosen" if c is self.chosen else "front" if c in self.front else ""
            shares = (f"{c.certified[r]:.4f}" if r in c.certified else "-" for r in radii)
            rows.append((mark, str(c.path), str(c.epoch), f"{c.accuracy:.4f}", f"{c.bound:.6g}", *shares))
        lines = [*table(header, rows), *(f"left out: {path}: {reason}" for path, reason in self.refused.items())]
        return "\n".join([*lines, f"rule: {self.rule}", f"chosen, and proved again: {self.chosen.path}"])


def select(
    runs: Iterable[str | os.PathLike[str]],
    build: Callable[[Path], nn.Module],
    *,
    accuracy: float | None = None,
    radius: float | None = None,
    tolerance: float = 0.01,
    failure_probability: float = CHANCE,
) -> Selection:
    """Choose among the checkpoints of runs.

    Args:
        runs: checkpoints, or folders in which they are looked for (`**/*.ckpt`).
        build: the network of a checkpoint, in eval mode.
        accuracy: at least this, and then the smallest bound.
        radius: the highest certified accuracy at this radius as logged, one of those that were; with `accuracy` among
            those that are as accurate. Without either, the smallest bound among those within `tolerance` of the best
            accuracy.
        tolerance: see there.
        failure_probability: the largest that is accepted of the chosen one's certificate, as for `lipguard.verify`.

    Raises:
        ConfigError: nothing can be compared, no checkpoint meets the rule, or the radius was not logged.
        CertificateError: what would be chosen does not prove its bound.
    """
    files = _files(runs)
    found: list[Candidate] = []
    refused: dict[Path, str] = {}
    for path in files:
        try:
            candidate = read_candidate(path)
            network = trace(build(path), candidate.certificate.input_shape)
            if network.digest != candidate.certificate.digest:
                raise CertificateError("its certificate belongs to other weights (digests differ)")
            found.append(candidate)
        except LipguardError as error:
            refused[path] = str(error)
    if not found:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in list(refused.items())[:3])
        raise ConfigError(f"Expected checkpoints with a certified bound and an accuracy, but found none. {reasons}")
    found.sort(key=lambda c: (c.bound, -c.accuracy))
    chosen, rule = _chosen(found, accuracy, radius, tolerance)
    verify(chosen.certificate, build(chosen.path), failure_probability=failure_probability)
    return Selection(tuple(found), tuple(pareto_front(found, radius)), chosen, rule, refused)


def _chosen(
    found: Sequence[Candidate], accuracy: float | None, radius: float | None, tolerance: float
) -> tuple[Candidate, str]:
    least = accuracy
    if accuracy is None and radius is None:
        least = max(c.accuracy for c in found) - tolerance
    able = [c for c in found if least is None or c.accuracy >= least]
    if not able:
        best = max(c.accuracy for c in found)
        raise ConfigError(f"Expected an accuracy of at least {least:g}, but the best checkpoint has {best:.4f}.")
    words = "" if least is None else f"accuracy at least {least:.4g}, then "
    if radius is None:
        return min(able, key=lambda c: c.bound), f"{words}the smallest bound"
    _require_radius(found, radius)
    best_one = max(able, key=lambda c: (c.certified.get(radius, -1.0), -c.bound))
    return best_one, f"{words}the highest certified accuracy at {radius:g}, as logged"


def _require_radius(found: Sequence[Candidate], radius: float) -> None:
    known = sorted({r for c in found for r in c.certified})
    if radius not in known:
        logged = ", ".join(f"{r:g}" for r in known) or "of which there is none"
        raise ConfigError(
            f"Expected radius to be one that was logged, {logged}, but got {radius:g}. LipschitzMonitor(epsilons=...) "
            "chooses them."
        )


def pareto_front(found: Sequence[Candidate], radius: float | None = None) -> list[Candidate]:
    """Those that no other beats in accuracy and bound, or in accuracy and certified accuracy, by falling accuracy."""

    def goodness(c: Candidate) -> float:
        return -c.bound if radius is None else c.certified.get(radius, -1.0)

    front: list[Candidate] = []
    best = -math.inf
    for c in sorted(found, key=lambda c: (-c.accuracy, -goodness(c))):
        if goodness(c) > best:
            front.append(c)
            best = goodness(c)
    return front


def read_candidate(path: Path) -> Candidate:
    """What a `LipschitzMonitor` left in a checkpoint, which is read without executing anything in it.

    Raises:
        CertificateError: it cannot be read, has no certificate, or none of the weights that its numbers are about.
        ConfigError: it has no accuracy.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's reader meets in a file that is none of its own
        raise CertificateError("it is not a checkpoint that can be read without executing it") from error
    certificate = Certificate.from_checkpoint(checkpoint)
    row = _last_row(checkpoint, certificate)
    if not isinstance(row.get("accuracy"), float):
        raise ConfigError("its monitor saw no accuracy: it needs a validation with integer labels, and epsilons")
    try:
        keys = [key for key in row if key.startswith(CERTIFIED_ACCURACY)]
        certified = {float(key.removeprefix(CERTIFIED_ACCURACY)): float(row[key]) for key in keys}
        epoch = int(row["epoch"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CertificateError(f"the numbers of its monitor cannot be read: {error!r}") from error
    if not all(0 <= share <= 1 for share in (row["accuracy"], *certified.values())):
        raise CertificateError("its monitor's accuracies are not all between 0 and 1")
    return Candidate(path, epoch, float(certificate.bound), row["accuracy"], certified, certificate)


def _last_row(checkpoint: Mapping[str, Any], certificate: Certificate) -> Mapping[str, Any]:
    for state in checkpoint["callbacks"].values():
        rows = state.get("history") if isinstance(state, Mapping) and "warm_start" in state else None
        if rows and rows[-1].get("digest") == certificate.digest:
            last: Mapping[str, Any] = rows[-1]
            return last
    raise CertificateError("the last numbers of its monitor are not about the weights of its certificate")


def _files(runs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    found: list[Path] = []
    for run in map(Path, runs):
        if run.is_dir():
            found += sorted(run.rglob("*.ckpt"))
        elif run.is_file():
            found.append(run)
        else:
            raise ConfigError(f"Expected a checkpoint or a folder of them, but there is nothing at {run.absolute()}.")
    return list(dict.fromkeys(found))
