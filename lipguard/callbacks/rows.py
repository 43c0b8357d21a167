"""What is logged: one table of keys, and the rows of plain values that they are read from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from lipguard.certifying.margins import CERTIFIED_ACCURACY, accuracy_key
from lipguard.certifying.report import Report
from lipguard.certifying.status import Outcome, Status
from lipguard.trusted.rounding import to_float32_down, to_float32_up

Row: TypeAlias = dict[str, Any]  # plain values: it is broadcast, and stored in checkpoints


@dataclass(frozen=True)
class Key:
    """A key that is logged.

    Attributes:
        name: in rows, and after the prefix in logs.
        meaning: what it is.
        unit: of its values.
        rounded: to float32, which way.
        better: which values are; None where neither is.
        when: it is logged: with every bound; of a classifier that is validated; if it is asked for.
        family: the name is a beginning, which one of `epsilons` follows.
    """

    name: str
    meaning: str
    unit: str
    rounded: Literal["up", "down", "nearest"]
    better: Literal["smaller", "larger"] | None
    when: Literal["bound", "validation", "request"]
    family: bool = False

    def names(self, epsilons: Sequence[float]) -> list[str]:
        """The whole names, for radii of certified accuracy."""
        return [accuracy_key(epsilon) for epsilon in epsilons] if self.family else [self.name]

    def narrowed(self, value: float) -> float:
        """The value as a float32 that errs the safe way."""
        if self.rounded == "nearest" or abs(value) > torch.finfo(torch.float32).max:
            return value  # a logger that narrows makes it infinite; monitors still see the number
        return to_float32_up(value) if self.rounded == "up" else to_float32_down(value)


_CONSTANT = "output / input, l2"
_LENGTH = "l2 length in the data's units"
_SHARE = "share of samples"

BOUND = Key(
    "bound", "the certified upper bound, of the weights as they are now",
    _CONSTANT, "up", "smaller", "bound",
)  # fmt: skip
PRODUCT_BOUND = Key(
    "product_bound", "the certified product of layer norms; the bound never exceeds it",
    _CONSTANT, "up", "smaller", "bound",
)  # fmt: skip
LOWER_BOUND = Key(
    "lower_bound", "the largest gradient norm found: the true constant is between the two",
    _CONSTANT, "down", "larger", "bound",
)  # fmt: skip
TIGHTNESS = Key("tightness", "lower bound / bound; 1 would be exact", "ratio", "down", "larger", "bound")
SECONDS = Key("seconds", "what the certificate cost", "s", "down", None, "bound")
RADIUS = Key(
    "average_certified_radius", "how far a sample may be moved, on average",
    _LENGTH, "down", "larger", "validation",
)  # fmt: skip
CERTIFIED = Key(
    CERTIFIED_ACCURACY,
    "the share of the validation's samples that are right, and provably stay so within that l2 distance; also for "
    "other radii (`epsilons`)",
    _SHARE, "down", "larger", "validation", family=True,
)  # fmt: skip
SELECTION = Key(
    "selection", "the bound of weights that reach `min_accuracy`, and more than any bound for others",
    _CONSTANT, "up", "smaller", "request",
)  # fmt: skip
ESTIMATE = Key(
    "estimate", "the value of LipSDP's relaxation, which is not a bound, every `estimate_every_n_steps`",
    _CONSTANT, "nearest", "smaller", "request",
)  # fmt: skip

KEYS = (BOUND, PRODUCT_BOUND, LOWER_BOUND, TIGHTNESS, SECONDS, RADIUS, CERTIFIED, SELECTION, ESTIMATE)
OF_BOUNDS = tuple(key for key in KEYS if key.when == "bound")
OF_VALIDATIONS = (RADIUS, CERTIFIED, SELECTION)  # logged where a row has them


def of_validation(names: Iterable[str]) -> dict[str, Key]:
    """Those of some names that are logged of validations, in their order."""
    found = {}
    for name in names:
        for key in OF_VALIDATIONS:
            if name == key.name or (key.family and name.startswith(key.name)):
                found[name] = key
    return found


def values_of(report: Report, status: Status) -> Row:
    """What a report says, the status in the place of its own."""
    numbers = {key.name: float(getattr(report, key.name)) for key in OF_BOUNDS}
    # A plain string, which a checkpoint can hold.
    return numbers | {"status": str(status), "digest": str(report.certificate.digest)}


def failed(reason: str, seconds: float) -> Row:
    """What there is to say of weights that have no bound."""
    return {
        "bound": math.inf,  # a true upper bound, and monitors find their key
        "product_bound": math.inf,
        "lower_bound": 0.0,
        "tightness": 0.0,
        "seconds": seconds,
        "status": str(Status(Outcome.FAILED, reason)),
        "digest": None,
    }


def log(module: Any, prefix: str, row: Mapping[str, Any]) -> None:
    """Log a row by its LightningModule, on all ranks.

    Lightning makes Python floats float32, which may round an upper bound down. Loggers narrow tensors too, so values
    are rounded the safe way beforehand; then a device without float64 keeps them as well.
    """
    for name, key in ({key.name: key for key in OF_BOUNDS} | of_validation(row)).items():
        module.log(
            f"{prefix}/{name}",
            torch.tensor(key.narrowed(row[name]), dtype=precise(module.device), device=module.device),
            prog_bar=key is BOUND,
            reduce_fx="max",
            batch_size=1,
            sync_dist=True,  # equal on all ranks already; without it Lightning warns
            add_dataloader_idx=False,
        )


def precise(device: torch.device) -> torch.dtype:
    """What a device holds numbers in: float64, if it can."""
    return torch.float32 if device.type == "mps" else torch.float64
