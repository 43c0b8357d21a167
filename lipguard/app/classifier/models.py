"""The classifier that `lipguard train` trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from lipguard.app.classifier.networks import build_network, output_shape
from lipguard.errors import ConfigError
from lipguard.proposing.penalty import LipschitzPenalty

ACCURACY = "val/accuracy"


class Classifier(pl.LightningModule):
    """A feed-forward network trained with Adam on cross-entropy; logs train/loss, val/loss and val/accuracy.

    All arguments are plain values and are stored in checkpoints, so that a checkpoint alone rebuilds its network.

    Args:
        layers: the architecture, as `build_network` takes it; the last layer gives one logit per class.
        input_shape: shape of one image, without the batch axis.
        learning_rate: Adam's step size.
        penalty: times the value of LipSDP's relaxation (`lipguard.LipschitzPenalty`), added to the loss.

    Raises:
        ConfigError: the layers do not make a network from `input_shape` to a vector of logits.
    """

    def __init__(
        self,
        layers: Sequence[Mapping[str, Any]],
        input_shape: Sequence[int],
        learning_rate: float = 1e-3,
        penalty: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.input_shape = tuple(input_shape)
        self.learning_rate = learning_rate
        if isinstance(penalty, bool) or not isinstance(penalty, (int, float)) or not penalty >= 0:
            raise ConfigError(f"Expected penalty to be a number of at least 0, but got {penalty!r}.")
        self.penalty = float(penalty)
        self._relaxation: LipschitzPenalty | None = None
        self.net = build_network(layers, self.input_shape)
        logits = output_shape(self.net, self.input_shape)
        if len(logits) != 1:
            raise ConfigError(f"Expected a network whose output is a vector of logits, but got shape {logits}.")
        self.num_classes = logits[0]
        self.example_input_array = torch.zeros(1, *self.input_shape)
        self.accuracy = MulticlassAccuracy(num_classes=self.num_classes, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Logits, of shape (batch, classes), of images of shape (batch, *input_shape)."""
        logits: Tensor = self.net(images)
        return logits

    def on_fit_start(self) -> None:
        """The penalty is for a training only; nothing of it is saved."""
        self._relaxation = LipschitzPenalty(self, self.input_shape) if self.penalty else None

    def on_fit_end(self) -> None:
        """Let go of it."""
        self._relaxation = None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Cross-entropy of one batch."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        if self._relaxation is not None:
            value = self._relaxation()
            self.log("train/relaxation", value.detach(), on_step=False, on_epoch=True)
            loss = loss + self.penalty * value
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Loss and accuracy of one batch of images that were not trained on."""
        images, labels = batch
        logits = self(images)
        self.accuracy.update(logits, labels)
        self.log("val/loss", F.cross_entropy(logits, labels))
        self.log(ACCURACY, self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over all parameters."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)
