"""What loggers show beside scalars: figures and a layout in TensorBoard, summaries and the certificate in W&B."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lipguard.callbacks.observed import is_a
from lipguard.certifying.margins import accuracy_key
from lipguard.trusted.certificate.certificate import Certificate

_SMALLEST = ("bound", "product_bound")  # are the best
_LARGEST = ("lower_bound", "tightness", "average_certified_radius")


def prepare(loggers: Sequence[Any], prefix: str, epsilons: Sequence[float]) -> None:
    """Once per fit: a layout of curves that belong together, and what a run's summary is to keep."""
    names = [accuracy_key(epsilon) for epsilon in epsilons]
    for logger in loggers:
        if is_a(logger, "TensorBoardLogger"):
            layout = {
                "Lipschitz": {
                    "bounds": ["Multiline", [f"{prefix}/{n}" for n in ("bound", "product_bound", "lower_bound")]],
                    **({"certified accuracy": ["Multiline", [f"{prefix}/{n}" for n in names]]} if names else {}),
                }
            }
            logger.experiment.add_custom_scalars(layout)
        elif is_a(logger, "WandbLogger"):
            define = logger.experiment.define_metric
            for name in (*_SMALLEST, *_LARGEST, *names):
                define(f"{prefix}/{name}", summary="min" if name in _SMALLEST else "max")


def show(
    loggers: Sequence[Any], prefix: str, step: int, history: Sequence[Mapping[str, Any]],
    curve: tuple[Sequence[float], Sequence[float]] | None,
) -> None:  # fmt: skip
    """Figures: bounds and accuracy by epoch, certified accuracy by radius. Nothing where matplotlib is not installed.

    Args:
        loggers: of the trainer.
        prefix: of names.
        step: of the training.
        history: rows of the monitor.
        curve: (radii, shares), if there is one.
    """
    shown = [logger for logger in loggers if is_a(logger, "TensorBoardLogger")]
    if not shown or not history or importlib.util.find_spec("matplotlib") is None:
        return
    from lipguard.figures.history import plot_certified_accuracy, plot_history

    for logger in shown:
        logger.experiment.add_figure(f"{prefix}/accuracy_and_bounds", plot_history(history), step)
        if curve is not None:
            logger.experiment.add_figure(f"{prefix}/certified_accuracy", plot_certified_accuracy(*curve), step)


def keep(loggers: Sequence[Any], prefix: str, certificate: Certificate) -> None:
    """The certificate of the last weights, as an artifact of the run in W&B."""
    for logger in loggers:
        if is_a(logger, "WandbLogger"):
            import wandb

            with tempfile.TemporaryDirectory() as folder:
                path = certificate.save(Path(folder, "certificate.npz"))
                metadata = {"bound": certificate.bound, "proof": certificate.proof, "digest": certificate.digest}
                artifact = wandb.Artifact(f"{prefix}-certificate", "certificate", metadata=metadata)
                artifact.add_file(str(path))
                logger.experiment.log_artifact(artifact)


def log_late(found: Sequence[Any], prefix: str, values: Mapping[str, float], step: int) -> None:
    """Values of an earlier step, with their full keys."""
    for logger in found:
        logger.log_metrics(dict(values), step=step)
