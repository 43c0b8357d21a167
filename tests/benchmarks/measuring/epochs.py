"""CNN1 while it trains: what steps take, and what certificates do after every epoch."""

from __future__ import annotations

import statistics
import time
from typing import Any

import lipguard

from ..networks.trained import cnn1
from ..networks.training import Training, mnist
from .methods import warm_up
from .process import Clock

Values = dict[str, Any]


def warm_in_steps(clock: Clock, epochs: int) -> Values:
    """CNN1 while it trains: seconds of a step, and of a warm certificate after each of some more epochs.

    A step of a plain loop, and of a Lightning Trainer, both without logging.
    """
    from .trainer import trainer_steps  # not in the memory of the other methods

    training = Training(cnn1, *mnist())
    for _ in range(8):
        training.epoch()
    warm_up()
    steps: list[float] = []
    certificates = []
    with clock:
        report = lipguard.certify(training.model, (1, 28, 28))
        cold = report.seconds
        for _ in range(epochs):
            steps += training.epoch()
            start = time.perf_counter()
            report = lipguard.certify(training.model, (1, 28, 28), warm_start=report)
            certificates.append(time.perf_counter() - start)
    trainer = statistics.median(trainer_steps(training))
    return {
        "step": statistics.median(steps), "trainer step": trainer, "steps": len(steps), "warm": certificates,
        "cold": cold,
    }  # fmt: skip


def each_epoch(clock: Clock, epochs: int, device: str = "cpu") -> Values:
    """CNN1 while it trains: of every epoch the seconds, the accuracy, and a certificate, cold and warm."""
    training = Training(cnn1, *mnist())
    training.model.to(device)
    training.images, training.labels = training.images.to(device), training.labels.to(device)
    warm_up(device=device)
    rows, last = [], None
    with clock:
        for _ in range(epochs):
            start = time.perf_counter()
            training.epoch()
            trained = time.perf_counter() - start
            cold = lipguard.certify(training.model, (1, 28, 28))
            warm = last = lipguard.certify(training.model, (1, 28, 28), warm_start=last)
            rows.append({
                "training": trained, "accuracy": training.accuracy(), "product": warm.product_bound,
                "lower": max(cold.lower_bound, warm.lower_bound), "cold": cold.bound, "cold seconds": cold.seconds,
                "warm": warm.bound, "warm seconds": warm.seconds,
            })  # fmt: skip
    return {"epochs": rows}
