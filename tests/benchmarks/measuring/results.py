"""The results of the package `lipguard` that Python finds, as lines of JSON: a program of its own.

The study `same_results` starts it in two checkouts, of which one may be older, so it asks for `lipguard.certify`,
`lipguard.plan` and `lipguard.verify` alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import lipguard

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # these networks, whichever checkout is measured

from benchmarks.networks.compared import networks


def ways() -> dict[str, dict[str, Any]]:
    """Settings of a certification, by name."""
    return {
        "default": {},
        "dense": {"proof": "dense"},
        "sparse": {"proof": "sparse"},
        "randomised": {"proof": "randomised", "failure_probability": 1e-9},
        "channels": {"multipliers": "channel", "partition": "cuts", "max_block_size": 150},
        "tiles": {"partition": "tiles", "max_block_size": 200},
        "clarabel": {"solver": "clarabel", "merge": "coverage", "max_block_size": 60},
    }


def results(only: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, what was found) of networks whose name contains `only`, with the package that Python finds."""
    warnings.simplefilter("ignore")
    lipguard.plan(torch.nn.Linear(1, 1), (1,))  # measures the machine
    for name, model, shape in networks():
        if only not in name:
            continue
        for way, settings in ways().items():
            _forget()
            yield f"{name} | {way}", _found(model, shape, settings)
        _forget()
        yield f"{name} | domain", _found(model, shape, {}, domain=lipguard.Box(-0.5, 0.5))


def _forget() -> None:
    """What has been learned of this machine's speed since it was measured: plans depend on it."""
    cache = Path(os.environ["LIPGUARD_CACHE"])
    first = cache / "first"
    for file in cache.glob("*.json"):
        if not first.exists():
            first.write_bytes(file.read_bytes())
        file.write_bytes(first.read_bytes())


def _found(model: Any, shape: tuple[int, ...], settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    try:
        report = lipguard.certify(model, shape, lipguard.DCPConfig(**settings), **more)
    except Exception as error:  # is a result, too
        return {"error": f"{type(error).__name__}: {error}"}
    report = report.restricted or report
    digest = hashlib.sha256()
    for parts in report.certificate.multipliers:
        for t in parts:
            digest.update(t.tobytes())
    verified = lipguard.verify(report.certificate, model, **more)
    numbers = {name: float(getattr(report, name)).hex() for name in ("bound", "product_bound", "lower_bound")}
    return numbers | {
        "verified": float(verified).hex(), "proof": str(report.proof), "status": str(report.status),
        "plan": str(report.plan), "multipliers": digest.hexdigest()[:16], "notes": list(report.notes),
    }  # fmt: skip


if __name__ == "__main__":
    for pair in results(sys.argv[1]):
        print(json.dumps(pair), flush=True)
