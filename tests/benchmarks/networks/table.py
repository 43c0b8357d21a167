"""The networks of the table of all methods: of peers, the paper's, architectures, some whose constant is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrizations

from .architectures import CASES, Case, trained
from .named import builders
from .sample import Sample
from .training import MNIST, mnist

QUICK = ("fnn2 0, all", "fnn3 0, all", "cnn2 0, all", "cnn3 0, all", "cnn_C5_CH16", "CNN1")
ARCHITECTURES = ("LeNet-5, average", "LeNet-5, max", "ResNet-20", "ResNet-18, 32x32")


def table(everything: bool, only: str, note: Callable[[str], None], folder: Path | None = None) -> Iterator[Sample]:
    """Networks of the table whose name contains `only`; the chosen subset first.

    Those that are in `folder` are taken from there, and others kept there, as training takes its time and comes to
    other weights on another machine.
    """
    found = builders([0, 1, 2, 3, 4] if everything else [0], note)
    known = {"orthogonal, 5 layers": _orthogonal, "diagonal, 2 layers": _diagonal}
    chosen = {name: found.pop(name) for name in QUICK if name in found} | known
    if everything:
        # Other seeds of the digits networks come last, and of those the ones with one output.
        late = sorted((x for x in found if x.endswith(("all", "row 7"))), key=lambda name: name.endswith("row 7"))
        chosen |= {name: build for name, build in found.items() if name not in late}
        chosen |= (_architectures() if MNIST.is_dir() else {}) | {name: found[name] for name in late}
    for name, build in chosen.items():
        if only.lower() in name.lower():
            yield build() if folder is None else _kept(folder / f"{name}.pt", build)


def _kept(file: Path, build: Callable[[], Sample]) -> Sample:
    if file.exists():
        model, about = torch.load(file, weights_only=False)
        return Sample(model=model, later=lambda: model, **about)
    sample = build()
    names = ("name", "input_shape", "optimum", "accuracy")
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save((sample.model, {name: getattr(sample, name) for name in names}), file)
    return sample


def _architectures() -> dict[str, Callable[[], Sample]]:
    def build(case: Case) -> Sample:
        model, accuracy = trained(case, *mnist())
        return Sample(case.name, model, case.shape, lambda: model, accuracy=accuracy)

    return {case.name: partial(build, case) for case in CASES if case.name in ARCHITECTURES}


def _orthogonal() -> Sample:
    """Orthogonal layers with absolute values: 1-Lipschitz, and attained."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(4):
        layers += [parametrizations.orthogonal(nn.Linear(32, 32)), nn.LeakyReLU(-1.0)]
    model = nn.Sequential(*layers, parametrizations.orthogonal(nn.Linear(32, 32))).eval()
    for layer in model:
        if isinstance(layer, nn.Linear):
            torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    return Sample("orthogonal, 5 layers", model, (32,), lambda: model, 1.0)


def _diagonal() -> Sample:
    """Diagonal layers: the constant is the product of the largest."""
    model = nn.Sequential(nn.Linear(8, 8, False), nn.ReLU(), nn.Linear(8, 8, False))
    with torch.no_grad():
        for k in (0, 2):
            model[k].weight.copy_(torch.diag(torch.linspace(0.5, 2.0, 8)))
    return Sample("diagonal, 2 layers", model.eval(), (8,), lambda: model, 4.0)
