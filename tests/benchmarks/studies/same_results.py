"""Whether two checkouts give the same results: bounds, proofs, plans and multipliers, bit by bit.

    python tests/benchmarks/same_results.py OTHER [THIS]

certifies some sixty networks in seven ways in each of two folders that hold a package `lipguard`, one process each, and
prints what differs. A change that only moves code changes nothing here.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
GRAPHS = 44


def networks() -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    """(name, model, input shape) of random graphs of all kinds of layers, and of what people write."""
    import torch
    from torch import nn

    sys.path.insert(0, str(HERE.parents[2]))
    from helpers.graphs import random_graph
    from helpers.networks import MaxMin, Residual

    for seed in range(GRAPHS):
        yield f"graph {seed}", *random_graph(seed)

    def pair(channels: int, act: Any = nn.ReLU) -> nn.Module:
        body = [nn.Conv2d(channels, channels, 3, padding=1), act(), nn.Conv2d(channels, channels, 3, padding=1)]
        return Residual(nn.Sequential(*body), nn.Identity())

    def dense(act: Any, *widths: int) -> nn.Module:
        layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), act())]
        return nn.Sequential(*layers[:-1])

    def cnn(act: Any, stride: int = 2) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride, 1), act(), nn.Conv2d(4, 6, 3, stride, 1), act(), nn.Flatten(), nn.LazyLinear(10)
        )

    def deep(act: Any) -> nn.Module:
        return nn.Sequential(*(layer for k in range(5) for layer in (nn.Conv2d(1 if k == 0 else 4, 4, 3), act())))

    def pooled(pool: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), pool, nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
                             nn.LazyLinear(5))  # fmt: skip

    made = {
        "mlp": (lambda: dense(nn.ReLU, 10, 30, 30, 5), (10,)),
        "mlp deep": (lambda: dense(nn.Tanh, 8, 12, 12, 12, 12, 12, 3), (8,)),
        "mlp leaky": (lambda: dense(lambda: nn.LeakyReLU(0.1), 8, 20, 20, 3), (8,)),
        "mlp maxmin": (lambda: dense(MaxMin, 8, 20, 20, 4), (8,)),
        "cnn": (lambda: cnn(nn.ReLU), (1, 12, 12)),
        "cnn elu": (lambda: cnn(nn.ELU), (1, 9, 11)),
        "cnn maxmin": (lambda: cnn(MaxMin), (1, 10, 10)),
        "cnn wide": (lambda: cnn(nn.ReLU, 1), (1, 14, 14)),
        "stack": (lambda: deep(nn.ReLU), (1, 16, 16)),
        "stack gelu": (lambda: deep(nn.GELU), (1, 14, 12)),
        "max pool": (lambda: pooled(nn.MaxPool2d(2)), (1, 14, 14)),
        "average pool": (lambda: pooled(nn.AvgPool2d(3, 2, 1)), (1, 14, 14)),
        "residual": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), pair(4), nn.ReLU(),
                     pair(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)), (1, 10, 10)),
        "one layer": (lambda: nn.Linear(7, 5), (7,)),
        "no weights": (lambda: nn.ReLU(), (3, 4, 4)),
        "sequence": (lambda: nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 2)), (3, 6)),
    }  # fmt: skip
    for seed, (name, (build, shape)) in enumerate(made.items()):
        torch.manual_seed(seed)
        model = build().eval()
        with torch.no_grad():
            model(torch.zeros(2, *shape))
        yield name, model, shape


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


def results() -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, what was found) with the package that Python finds."""
    import lipguard

    warnings.simplefilter("ignore")
    for name, model, shape in networks():
        for way, settings in ways().items():
            _forget()
            yield f"{name} | {way}", _found(lipguard, model, shape, settings)
        _forget()
        yield f"{name} | domain", _found(lipguard, model, shape, {}, domain=lipguard.Box(-0.5, 0.5))


def _forget() -> None:
    """What has been learned of this machine's speed since the first network: plans depend on it."""
    cache = Path(os.environ["LIPGUARD_CACHE"])
    first = cache / "first"
    for file in cache.glob("*.json"):
        if not first.exists():
            first.write_bytes(file.read_bytes())
        file.write_bytes(first.read_bytes())


def _found(lipguard: Any, model: Any, shape: tuple[int, ...], settings: dict[str, Any], **more: Any) -> dict[str, Any]:
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


def _run(folder: Path, cache: str) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(folder), "LIPGUARD_CACHE": cache, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(HERE), "--dump"], env=environment, stdout=subprocess.PIPE, check=True,
                          text=True)  # fmt: skip
    return dict(json.loads(line) for line in done.stdout.splitlines())


def main() -> int:
    """Compare, or print the results of one folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("other", nargs="?", help="a folder that holds a package lipguard")
    parser.add_argument("this", nargs="?", default=str(HERE.parents[3]), help="the other one; this checkout by default")
    parser.add_argument("--dump", action="store_true", help="print the results of the package that Python finds")
    parser.add_argument("--keep", help="a file that holds the first folder's results, or takes them up")
    asked = parser.parse_args()
    if asked.dump:
        for pair in results():
            print(json.dumps(pair), flush=True)
        return 0
    kept = Path(asked.keep) if asked.keep else None
    with tempfile.TemporaryDirectory() as temporary:
        cache = temporary if kept is None else str(kept.with_suffix(".cache"))  # one model of this machine for both
        before = json.loads(kept.read_text()) if kept and kept.exists() else _run(Path(asked.other), cache)
        if kept:
            kept.write_text(json.dumps(before))
        after = _run(Path(asked.this), cache)
    differing = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
    for name in differing:
        one, other = before.get(name) or {}, after.get(name) or {}
        for key in sorted(one | other):
            if one.get(key) != other.get(key):
                print(f"{name}: {key}: {one.get(key)!r} -> {other.get(key)!r}")
    print(f"{len(after)} results of {len({name.split(' | ')[0] for name in after})} networks: {len(differing)} differ")
    return int(bool(differing))


if __name__ == "__main__":
    raise SystemExit(main())
