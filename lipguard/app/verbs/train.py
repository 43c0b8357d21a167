"""`lipguard train`: a network trained by Lightning, its bound logged beside its accuracy."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint

from lipguard import LipschitzMonitor
from lipguard.app.building import build, build_all, dcp_config
from lipguard.app.classifier.checkpoints import require_same_architecture
from lipguard.app.classifier.models import Classifier
from lipguard.app.console.folders import require_writable
from lipguard.app.console.history import AccuracyHistory, epoch_table, merged_history
from lipguard.app.data.images import ImageData
from lipguard.callbacks.rows import Row
from lipguard.errors import ConfigError
from lipguard.figures.history import plot_history, require_matplotlib


def train(cfg: DictConfig) -> float | None:
    """Train as configured, print the epochs and where everything is.

    Returns:
        The last value of the metric that `cfg.optimized_metric` names, None if it names none.

    Raises:
        LipguardError: a setting cannot be honoured; all that can be known before training is checked before.
    """
    folder = require_writable(cfg.paths.output_dir)
    if cfg.plot:
        require_matplotlib()
    dcp_config(cfg.lipschitz)  # refused here with a list of the options that exist
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data, model = _data_and_model(cfg)
    history = AccuracyHistory()
    callbacks = [*build_all(cfg.get("callbacks")), history]
    loggers = build_all(cfg.get("logger"))
    _require_writable_folders(loggers, callbacks)
    trainer = _fit(cfg, model, data, callbacks, loggers)
    rows = merged_history(_bounds(callbacks), history.accuracy)
    _print_summary(folder, trainer, rows, plot=cfg.plot)
    return _optimized_metric(trainer, cfg.optimized_metric)


def _data_and_model(cfg: DictConfig) -> tuple[ImageData, Classifier]:
    data: ImageData = build(cfg.data)
    model: Classifier = build(cfg.model)
    data.setup("fit")
    if data.input_shape != model.input_shape:
        raise ConfigError(
            f"The model expects images of shape {model.input_shape}, but the data have {data.input_shape}. "
            "Choose a model and data that fit, e.g. model=cnn1 data=mnist data.root=PATH."
        )
    if data.num_classes > model.num_classes:
        raise ConfigError(f"The model has {model.num_classes} outputs, but the data have {data.num_classes} classes.")
    if cfg.checkpoint is not None:
        require_same_architecture(cfg.checkpoint, model)
    return data, model


def _require_writable_folders(loggers: Sequence[pl.loggers.Logger], callbacks: Sequence[pl.Callback]) -> None:
    for logger in loggers:
        if logger.save_dir is not None:
            require_writable(logger.save_dir)
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
            require_writable(callback.dirpath)


def _fit(
    cfg: DictConfig,
    model: Classifier,
    data: ImageData,
    callbacks: list[pl.Callback],
    loggers: list[pl.loggers.Logger],
) -> pl.Trainer:
    """The Trainer after training; Lightning's hints that do not apply here are kept quiet."""
    try:
        trainer: pl.Trainer = build(cfg.trainer, callbacks=callbacks, logger=loggers or False)
        with warnings.catch_warnings():
            # The images are in memory: worker processes would only have to copy them.
            warnings.filterwarnings("ignore", message=".*does not have many workers")
            # With few batches per epoch the loss is logged at the end of the epoch, as it is anyway.
            warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging")
            # Lightning 2.6 with torch 2.13.
            warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
            trainer.fit(model, datamodule=data, ckpt_path=cfg.checkpoint)
    except MisconfigurationException as error:
        raise ConfigError(str(error)) from error
    return trainer


def _bounds(callbacks: Sequence[pl.Callback]) -> list[Row]:
    return [row for callback in callbacks if isinstance(callback, LipschitzMonitor) for row in callback.history]


def _print_summary(folder: Path, trainer: pl.Trainer, rows: Sequence[Row], *, plot: bool) -> None:
    """Print the table, the best checkpoint, and where the logs and the plot are."""
    lines = ["", epoch_table(rows), ""]
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or not callback.best_model_path:
            continue
        if callback.best_model_score is not None:
            score = float(callback.best_model_score)
            lines.append(f"Best checkpoint ({callback.monitor} = {score:.6g}): {callback.best_model_path}")
        elif callback.monitor is None:
            lines.append(f"Last checkpoint: {callback.best_model_path}")
    lines += [f"{type(logger).__name__.removesuffix('Logger')} log: {logger.log_dir}" for logger in trainer.loggers]
    if plot and rows:
        path = folder / "accuracy_and_bounds.png"
        try:
            plot_history(rows, path)
            lines.append(f"Plot: {path}")
        except OSError as error:  # a disk that is full costs the file, not the run
            lines.append(f"Plot: not saved ({error})")
    print("\n".join(lines))


def _optimized_metric(trainer: pl.Trainer, name: str | None) -> float | None:
    if name is None:
        return None
    if name not in trainer.callback_metrics:
        known = ", ".join(sorted(trainer.callback_metrics))
        raise ConfigError(f"Expected optimized_metric to be one of {known}, but got {name}.")
    return float(trainer.callback_metrics[name])
