"""What loggers hold after a training, read back from what they wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from integration.tiny_training import LIGHTNING_WARNINGS, Tiny, fit, trainer
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lipguard
from lipguard import LipschitzMonitor
from lipguard.callbacks.loggers import LOGGERS
from lipguard.callbacks.loggers.tensorboard import TensorBoard
from lipguard.callbacks.rows import KEYS

pytestmark = [LIGHTNING_WARNINGS, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def test_tensorboard_and_csv(tmp_path: Path) -> None:
    both = [TensorBoardLogger(tmp_path, "tb", ""), CSVLogger(tmp_path, "csv", "")]
    monitor = LipschitzMonitor(epsilons=(0.1, 0.3))
    fit(Tiny(), trainer(tmp_path, monitor, logger=both))
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    tags = events.Tags()
    names = {name for key in KEYS if key.when != "request" for name in key.names((0.1, 0.3))}
    assert {f"lipschitz/{name}" for name in names} <= set(tags["scalars"])
    logged = [event.value for event in events.Scalars("lipschitz/certified_accuracy_eps_0.3")]
    assert logged == pytest.approx([row["certified_accuracy_eps_0.3"] for row in monitor.history], abs=1e-6)
    assert {"lipschitz/accuracy_and_bounds", "lipschitz/certified_accuracy"} <= set(tags["images"])
    picture = events.Images("lipschitz/certified_accuracy")[-1]
    assert picture.encoded_image_string.startswith(b"\x89PNG")
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"lipschitz/product_bound" in layout
    assert b"lipschitz/certified_accuracy_eps_0.1" in layout
    header = (tmp_path / "csv/metrics.csv").read_text().splitlines()[0].split(",")
    assert {f"lipschitz/{name}" for name in names} == {name for name in header if name.startswith("lipschitz/")}


def test_a_logger_that_fails_costs_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(TensorBoard):
        def show(self, *args: Any, **kwargs: Any) -> None:
            raise OSError("no space left on device")

    monkeypatch.setitem(LOGGERS, "TensorBoardLogger", Full)
    monitor = LipschitzMonitor()
    with pytest.warns(UserWarning, match=r"A logger took no figures or artifacts, training goes on. OSError: no space"):
        fit(Tiny(), trainer(tmp_path, monitor, logger=TensorBoardLogger(tmp_path)))
    assert len(monitor.history) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="the package wandb is not installed")
    from pytorch_lightning.loggers import WandbLogger as Real

    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = Real(project="lipguard", save_dir=tmp_path, offline=True)
    monitor = LipschitzMonitor()
    model = fit(Tiny(), trainer(tmp_path, monitor, logger=logger))
    assert float(logger.experiment.summary["lipschitz/bound"]["min"]) == pytest.approx(
        min(row["bound"] for row in monitor.history), rel=1e-6
    )
    wandb.finish()
    assert list(tmp_path.rglob("*.wandb"))
    assert monitor.last_report is not None
    assert lipguard.verify(monitor.last_report.certificate, model.eval()) == monitor.last_report.bound


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    pytest.importorskip("mlflow", reason="the package mlflow is not installed")
    logger = pl.loggers.MLFlowLogger(tracking_uri=f"file:{tmp_path}/mlruns")
    monitor = LipschitzMonitor()
    fit(Tiny(), trainer(tmp_path, monitor, logger=logger))
    (written,) = tmp_path.rglob("metrics/lipschitz/bound")
    values = [float(line.split()[1]) for line in written.read_text().splitlines()]
    assert values == pytest.approx([row["bound"] for row in monitor.history], rel=1e-6)
