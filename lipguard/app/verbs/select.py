"""`lipguard select`: the checkpoint that is accurate and provably smooth, among those of runs."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, ListConfig

from lipguard.app.classifier.checkpoints import load_classifier
from lipguard.choosing.selection import select as select_checkpoint
from lipguard.errors import ConfigError
from lipguard.figures.front import plot_selection


def select(cfg: DictConfig) -> float:
    """Print what is compared, the Pareto front, and the chosen checkpoint, whose bound is proved again.

    Returns:
        Its bound.

    Raises:
        LipguardError: nothing can be compared, or nothing meets the rule.
    """
    runs = list(cfg.runs) if isinstance(cfg.runs, (list, ListConfig)) else [cfg.runs]
    if not runs:
        raise ConfigError("Expected folders of runs, or checkpoints: lipguard select RUN [RUN ...]")
    found = select_checkpoint(
        [str(run) for run in runs], load_classifier, accuracy=cfg.accuracy, radius=cfg.radius, tolerance=cfg.tolerance,
        failure_probability=cfg.failure_probability,
    )  # fmt: skip
    print(found)
    if cfg.plot is not None:
        try:
            plot_selection(found, Path(cfg.plot), cfg.radius)
            print(f"Plot: {cfg.plot}")
        except OSError as error:  # a disk that is full costs the file, not the choice
            print(f"Plot: not saved ({error})")
    return found.chosen.bound
