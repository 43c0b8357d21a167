from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from lipguard.errors import ConfigError
from lipguard.plotting import plot_history

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
        "import sys, lipguard.plotting as plotting; assert 'matplotlib' not in sys.modules;"
        "plotting.plot_history([{'epoch': 0, 'bound': 1.0}]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[1])
