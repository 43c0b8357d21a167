"""sampled <= exact where known <= bound <= product of norms: said once, with one tolerance.

A failing example leaves a file, and says how to run it again:

    PYTHONPATH=tests python -m helpers.sandwich FILE
"""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import lipguard
from lipguard import DCPConfig, Report
from lipguard.errors import CertificateError
from lipguard.trusted.regions.region import Domain

# The one tolerance: what double precision may have lost of an output, of its length.
LOST = 2.0**-40
FAR, NEAR, STEP = 1.0, 1e-3, 1e-2  # how far the points of a pair are apart, and the size of steps along single entries
MOST_STEPS = 256


def drawn(shape: tuple[int, ...], count: int = 128, seed: int = 0) -> Tensor:
    """Normal inputs of width three, shape (count, *shape)."""
    return 3 * torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(x: Tensor, seed: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs far from those in x, close to them, and in one entry away from them."""
    for spread in (FAR, NEAR):
        yield x, x + spread * drawn(tuple(x.shape[1:]), len(x), seed) / 3
    yield x, x.roll(1, 0)
    entries = x[0].numel()
    steps = STEP * torch.eye(entries, dtype=x.dtype)[:MOST_STEPS].reshape(-1, *x.shape[1:])
    yield x[:1].expand_as(steps), x[:1] + steps


def length_of(x: Tensor) -> Tensor:
    """In l2, of each sample."""
    return x.flatten(1).norm(dim=1)


def sampled(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    length: Callable[[Tensor], Tensor] = length_of,
    project: Callable[[Tensor], Tensor] = lambda x: x,
) -> float:
    """The largest difference quotient that pairs around the inputs x show, less what rounding may have added.

    Args:
        model: takes float64.
        x: inputs, shape (n, *shape).
        length: in which inputs are measured.
        project: onto the part of the input space that both points of a pair are to be of.
    """
    found = 0.0
    for u, v in pairs(project(x)):
        u, v = project(u), project(v)
        with torch.no_grad():
            one, other = model(u.clone()), model(v.clone())  # a model may change its input
        away = length(u - v)
        moved = length_of(one - other) - LOST * (length_of(one) + length_of(other))
        kept = away > 1e-9 * length(u).clamp_min(1e-300)
        if bool(kept.any()):
            found = max(found, float((moved / away)[kept].max()))
    return found


def in_double(model: nn.Module) -> nn.Module:
    """The same numbers in double precision; a copy where they are not."""
    narrow = any(p.dtype != torch.float64 for p in (*model.parameters(), *model.buffers()) if p.is_floating_point())
    return copy.deepcopy(model).double() if narrow else model


def assert_between(
    model: nn.Module, report: Report, x: Tensor, exact: float | None = None, domain: Domain | None = None
) -> None:
    """That a report lies where it has to, and that its certificate proves it."""
    project = (lambda v: v) if domain is None else domain.project
    least = max(sampled(in_double(model), x, project=project), report.lower_bound)
    if exact is not None:
        assert least <= exact * (1 + 1e-9), f"samples show {least!r}, above the exact {exact!r}"
        least = exact * (1 - 1e-12)
    assert least <= report.bound, f"{least!r} is reached, above the bound {report.bound!r}"
    assert report.bound <= report.product_bound, f"the bound {report.bound!r} is above {report.product_bound!r}"
    found = lipguard.verify(report.certificate, model, domain=domain)
    assert found == report.bound, f"the verifier says {found!r}, the report {report.bound!r}"


@dataclass(frozen=True, eq=False)
class Example:
    """What is certified, and on which inputs the bound is tried."""

    model: nn.Module
    shape: tuple[int, ...]
    config: DCPConfig
    x: Tensor
    exact: float | None = None
    domain: Domain | None = None

    def check(self) -> Report:
        """Certify, and see that the report lies where it has to; on a domain, both reports."""
        report = lipguard.certify(self.model, self.shape, self.config, domain=self.domain)
        assert_between(self.model, report, self.x, None if self.domain is not None else self.exact)
        if self.domain is not None:
            within = report.restricted
            assert within is not None
            assert within.bound <= report.bound
            own = within.certificate.domain  # the bound that holds everywhere is at times the smaller one
            assert_between(self.model, within, self.domain.project(self.x), self.exact, own)
        return report

    def __str__(self) -> str:
        said = [f"network: {self.model}", f"input shape: {self.shape}", f"settings: {self.config}"]
        return "\n".join([*said, *([] if self.domain is None else [f"domain: {self.domain}"])])

    def kept(self) -> str:
        """The command that runs it again, from a file that is written now."""
        try:
            data = pickle.dumps(self)
        except (pickle.PicklingError, AttributeError, TypeError) as error:  # a class of a test function, say
            return f"again: the network has no file ({error})"
        file = Path(tempfile.gettempdir(), f"sandwich_{os.getpid()}.pickle")  # the last one, which is the smallest
        file.write_bytes(data)
        return f"again: PYTHONPATH=tests python -m helpers.sandwich {file}"


@contextlib.contextmanager
def repeatable(example: Example) -> Iterator[None]:
    """Adds to what fails inside what it takes to run it again."""
    try:
        yield
    except (AssertionError, CertificateError) as error:
        error.add_note(f"{example}\n{example.kept()}")
        raise


def assert_sandwich(
    model: nn.Module,
    shape: tuple[int, ...],
    config: DCPConfig | None = None,
    *,
    x: Tensor | None = None,
    exact: float | None = None,
    domain: Domain | None = None,
) -> Report:
    """Certify a model, and see that the bound lies where it has to.

    Args:
        model: in eval mode.
        shape: of one input.
        config: settings; the defaults by default.
        x: inputs, shape (n, *shape), around which pairs are sampled; normal ones by default.
        exact: the Lipschitz constant, where it is known; on the domain, if there is one.
        domain: on which a bound is asked for, too.

    Raises:
        AssertionError: with a note that says how to run the example again.
    """
    example = Example(model, shape, config or DCPConfig(), drawn(shape) if x is None else x, exact, domain)
    with repeatable(example):
        return example.check()


def again(path: str | Path) -> Report:
    """Run an example that failed."""
    example = pickle.loads(Path(path).read_bytes())
    print(example)
    report: Report = example.check()
    return report


if __name__ == "__main__":
    from helpers.sandwich import again as run  # the class in the file is not that of __main__

    print(run(sys.argv[1]))
