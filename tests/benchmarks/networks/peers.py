"""Networks that others trained, and what is known of them: a folder with `load.py` and tables in its README.md."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from .sample import Sample

PEERS = Path(os.environ.get("LIPGUARD_PEERS", Path(__file__).parents[4] / "shared" / "peers"))
_OPTIMUM = {7: "LipSDP optimum, row 7", None: "LipSDP optimum, all outputs"}
_STACK_OPTIMUM = "LipSDP, power iteration, 14x14 / 28x28"


def load(folder: Path) -> ModuleType:
    """The folder's `load.py`."""
    spec = importlib.util.spec_from_file_location("peers_load", folder / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def known(folder: Path, column: str, *keys: str) -> str | None:
    """What the README's table with this column says in the row that begins with `keys`."""
    header: list[str] = []
    for line in (folder / "README.md").read_text().splitlines():
        cells = [cell.strip(" *") for cell in line.split("|")[1:-1]]
        if not cells:
            header = []
        elif column in cells:
            header = cells
        elif header and tuple(cells[: len(keys)]) == keys:
            return cells[header.index(column)]
    return None


def builders(seeds: Sequence[int]) -> dict[str, Callable[[], Sample]]:
    """What makes each network, by name."""
    names: dict[str, Callable[[], Sample]] = {}
    for family in ("fnn2", "fnn3", "cnn2", "cnn3"):
        for seed in seeds:
            for row, outputs in ((7, "row 7"), (None, "all")):
                name = f"{family} {seed}, {outputs}"
                names[name] = partial(_digits, family, seed, row, name)
    return names | {stack: partial(_stack, stack) for stack in ("cnn_C5_CH16", "cnn_C9_CH8")}


def _digits(family: str, seed: int, row: int | None, name: str) -> Sample:
    model, shape = load(PEERS).digits(family, seed, row)
    optimum = known(PEERS, _OPTIMUM[row], family, str(seed))
    return Sample(name, model, shape, lambda: _perturbed(model), float(optimum) if optimum else None)


def _stack(name: str) -> Sample:
    model, shape = load(PEERS).stack(name, 28)
    row = known(PEERS, _STACK_OPTIMUM, name)
    optimum = float(row.split("/")[1].split("(")[0]) if row else None  # "33.10 / 35.09 (0.4 s / 0.7 s)"
    return Sample(name, model, shape, lambda: _perturbed(model), optimum)


@torch.no_grad()
def _perturbed(model: nn.Module) -> nn.Module:
    """Every weight with 1 % of relative Gaussian noise, where there is no data to train on."""
    model, noise = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.mul_(1 + 0.01 * torch.randn(weight.shape, generator=noise, dtype=weight.dtype))
    return model
