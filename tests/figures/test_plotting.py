from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import lipguard
from lipguard.errors import ConfigError
from lipguard.figures.history import plot_history
from lipguard.figures.plan import plot_plan

HISTORY = [
    {"epoch": e, "accuracy": 0.5 + e / 10, "bound": 2.0**e, "product_bound": 3.0**e + 1, "lower_bound": 1.1**e / 2}
    for e in range(5)
]


def curves(figure: Figure) -> dict[str, list[float]]:
    return {str(line.get_label()): list(line.get_ydata()) for axes in figure.axes for line in axes.get_lines()}


def test_every_series_is_drawn() -> None:
    figure = plot_history(HISTORY)
    drawn = curves(figure)
    assert drawn["certified upper bound"] == [row["bound"] for row in HISTORY]
    assert drawn["product of layer norms"] == [row["product_bound"] for row in HISTORY]
    assert drawn["lower bound (largest gradient)"] == [row["lower_bound"] for row in HISTORY]
    accuracy, bounds = figure.axes
    assert list(accuracy.get_lines()[0].get_ydata()) == [row["accuracy"] for row in HISTORY]
    assert (accuracy.get_yscale(), bounds.get_yscale()) == ("linear", "log")
    assert bounds.get_xlabel() == "epoch"


def test_figure_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    plot_history(HISTORY, path, title="A title")
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 400
    assert np.unique(picture[..., :3].reshape(-1, 3), axis=0).shape[0] > 10


@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0.0, -1.0])
def test_values_that_cannot_be_drawn_are_gaps(tmp_path: Path, value: float | None) -> None:
    history = [dict(row) for row in HISTORY]
    history[2]["bound"] = value
    history[3].pop("accuracy")
    drawn = curves(plot_history(history, tmp_path / "figure.png"))
    assert [math.isnan(bound) for bound in drawn["certified upper bound"]] == [False, False, True, False, False]


@pytest.mark.parametrize("rows", [HISTORY[:1], [{"epoch": 0, "accuracy": 0.5}], [{"epoch": 3, "bound": math.inf}]])
def test_short_and_poor_histories(tmp_path: Path, rows: list) -> None:
    plot_history(rows, tmp_path / "figure.png")


def test_bounds_over_many_decades(tmp_path: Path) -> None:
    plot_history([{"epoch": e, "bound": 10.0**e} for e in range(9)], tmp_path / "figure.png")


def test_empty_history() -> None:
    with pytest.raises(ConfigError, match="at least one epoch"):
        plot_history([])


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"lipguard\[plot\]"):
        plot_history(HISTORY)


def test_matplotlib_is_loaded_late_and_pyplot_never() -> None:
    script = (
        "import sys, lipguard.figures.history as figures; assert 'matplotlib' not in sys.modules;"
        "figures.plot_history([{'epoch': 0, 'bound': 1.0}]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def cnn(channels: int = 2) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, channels, 3), nn.ReLU(), nn.Conv2d(channels, 2, 3), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(72, 3)).eval()


@pytest.mark.parametrize("settings", [{}, {"partition": "tiles", "partition_factors": (3, 2)}, {"partition": "cuts"}])
def test_a_plan_is_drawn_with_its_blocks(tmp_path: Path, settings: dict[str, object]) -> None:
    plan = lipguard.plan(cnn(), (1, 10, 10), lipguard.DCPConfig(**settings))
    figure = plot_plan(plan, cnn(), (1, 10, 10), tmp_path / "plan.png")
    (axes,) = figure.axes
    assert len(axes.containers) == 7  # a bar for every node, the input included
    texts = [text.get_text() for text in axes.texts]
    assert len(texts) == len(plan.blocks)
    assert len(axes.child_axes) == sum(block.tile is not None for block in plan.blocks)
    assert (tmp_path / "plan.png").stat().st_size > 1000


def test_cuts_are_drawn() -> None:
    plan = lipguard.plan(cnn(), (1, 10, 10))
    for grids, drawn in (((), 0), (((2, 2), (1, 1)), 1)):
        block = dataclasses.replace(plan.blocks[0], cuts=(2,), grids=grids)
        figure = plot_plan(dataclasses.replace(plan, blocks=(block,)), cnn(), (1, 10, 10))
        assert any(line.get_linestyle() == "--" for line in figure.axes[0].get_lines())
        assert len(figure.axes[0].child_axes) == drawn


def test_plans_of_another_network_are_not_drawn() -> None:
    with pytest.raises(ConfigError, match="another architecture"):
        plot_plan(lipguard.plan(cnn(), (1, 10, 10)), cnn(3), (1, 10, 10))
