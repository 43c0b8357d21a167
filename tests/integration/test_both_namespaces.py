"""`lightning.pytorch` beside `pytorch_lightning`: each trainer with the monitor of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from integration.tiny_training import LIGHTNING_WARNINGS, Batches
from torch import Tensor, nn

import lipguard

lightning = pytest.importorskip("lightning.pytorch", reason="the package lightning is not installed")
pytestmark = [
    LIGHTNING_WARNINGS,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


def classifier(namespace: Any) -> Any:
    class Classifier(namespace.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)  # type: ignore[no-any-return]

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            return nn.functional.cross_entropy(self(x), y)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            self.log("val_acc", (self(x).argmax(1) == y).float().mean(), batch_size=len(y))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    return Classifier()


def run(namespace: Any, monitor: Any, folder: Path) -> tuple[Any, Any]:
    model = classifier(namespace)
    checkpoint = namespace.callbacks.ModelCheckpoint(
        folder / "kept", monitor="lipschitz/bound", mode="min", save_top_k=-1
    )
    logger = namespace.loggers.CSVLogger(folder)
    trainer = namespace.Trainer(
        callbacks=[monitor, checkpoint], logger=logger, max_epochs=3, accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(model, Batches(), Batches())
    return trainer, model


def test_both_log_the_same(tmp_path: Path) -> None:
    from lipguard.lightning import LipschitzMonitor

    rows = []
    for namespace, kind in ((pl, lipguard.LipschitzMonitor), (lightning, LipschitzMonitor)):
        monitor = kind()
        trainer, model = run(namespace, monitor, tmp_path / namespace.__name__)
        assert isinstance(monitor, namespace.Callback)
        assert float(trainer.callback_metrics["lipschitz/bound"]) >= monitor.history[-1]["bound"]
        assert "lipschitz/certified_accuracy_eps_0.25" in trainer.callback_metrics
        best = trainer.checkpoint_callback.best_model_path
        certificate = lipguard.Certificate.from_checkpoint(best)
        state = torch.load(best, weights_only=True)["state_dict"]
        model.load_state_dict(state)
        assert lipguard.verify(certificate, model.eval()) == certificate.bound
        rows.append([{k: v for k, v in row.items() if "seconds" not in k} for row in monitor.history])
        logged = (tmp_path / namespace.__name__ / "lightning_logs/version_0/metrics.csv").read_text()
        assert "lipschitz/average_certified_radius" in logged.splitlines()[0]
    assert rows[0] == rows[1]


def test_the_error_is_that_of_the_namespace() -> None:
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from lipguard.lightning import LipschitzMonitor

    with pytest.raises(MisconfigurationException, match="every_n_epochs"):
        LipschitzMonitor(every_n_epochs=0)
