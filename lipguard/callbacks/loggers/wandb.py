"""W&B: the best values in a run's summary, and the certificate as an artifact."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lipguard.callbacks.loggers.logger import Logger
from lipguard.callbacks.recomputed import Curve
from lipguard.callbacks.rows import Key
from lipguard.trusted.certificate.certificate import Certificate


class Wandb(Logger):
    """Summaries, and an artifact."""

    def prepare(self, keys: Mapping[str, Key]) -> None:
        """The summary keeps the best of what can be better or worse."""
        for name, key in keys.items():
            if key.better is not None:
                self.experiment.define_metric(
                    f"{self.prefix}/{name}", summary="min" if key.better == "smaller" else "max"
                )

    def show(self, step: int, history: Sequence[Mapping[str, Any]], curve: Curve | None) -> None:
        """Nothing: its own page draws the curves."""

    def keep(self, certificate: Certificate) -> None:
        """An artifact with the bound, the proof and the digest."""
        import wandb

        with tempfile.TemporaryDirectory() as folder:
            path = certificate.save(Path(folder, "certificate.npz"))
            metadata = {"bound": certificate.bound, "proof": certificate.proof, "digest": certificate.digest}
            artifact = wandb.Artifact(f"{self.prefix}-certificate", "certificate", metadata=metadata)
            artifact.add_file(str(path))
            self.experiment.log_artifact(artifact)
