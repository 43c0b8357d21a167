"""The contract of bad input: every public name says in one line where, what and why; the smallest change mends it.

A case is a call with one bad argument, and with that argument mended. Nothing is lost by the bad one: the model, its
training flags and its earlier certificate are as they were, and no file is left behind.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.networks import with_weights
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

import lipguard
from lipguard import (
    Ball,
    Box,
    Certificate,
    CertifiedAccuracy,
    DCPConfig,
    LipschitzBound,
    LipschitzMonitor,
    LipschitzPenalty,
    Margins,
    Report,
    certify,
    certify_many,
    certify_margins,
    plan,
    register,
    select,
    verify,
    verify_margin,
)
from lipguard.errors import CertificateError, ConfigError, InvalidNetworkError, UnsupportedLayerError
from lipguard.trusted.reading.table import TABLE

LOGITS, TARGET = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)


def network(*more: nn.Module) -> nn.Module:
    return with_weights(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), *more), 0)


MODEL = network()
REPORT: Report = certify(MODEL, (3,))
CERTIFICATE = REPORT.certificate


class Own(nn.Module):
    """Nobody knows it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.5 * x)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def with_nan() -> nn.Module:
    found = network()
    with torch.no_grad():
        found[2].weight[0, 0] = math.nan  # type: ignore[index]
    return found


@dataclass(frozen=True)
class Case:
    """`call(bad)` is refused with an error that says all of `words`; `call(good)` is taken."""

    name: str  # of the public name, and of the argument
    call: Callable[[Any], Any]
    bad: Any
    good: Any
    words: tuple[str, ...]
    error: type[Exception] = ConfigError


def config(**settings: Any) -> DCPConfig:
    return DCPConfig(**settings)


CASES = [
    Case("DCPConfig solver", lambda v: config(solver=v), "mosek", "scs", ("solver", "'mosek'", "'power', 'scs'")),
    Case("DCPConfig proof", lambda v: config(proof=v), "hope", "dense", ("proof", "'hope'", "'sparse'")),
    Case("DCPConfig seed", lambda v: config(seed=v), -1, 0, ("seed", "-1", "at least 0")),
    Case("DCPConfig tolerance", lambda v: config(tolerance=v), "1e-3", 1e-3, ("tolerance", "'1e-3'", "number")),
    Case("DCPConfig options", DCPConfig.from_dict, {"slover": "scs"}, {"solver": "scs"}, ("slover", "solver")),
    Case("Box low", lambda v: Box(v, 1.0), 2.0, 0.0, ("Box", "low <= high")),
    Case("Box high", lambda v: Box(0.0, v), math.inf, 1.0, ("Box", "high", "finite")),
    Case("Ball size", lambda v: Ball(0.0, v), -1.0, 1.0, ("Ball", "radius", "-1.0", "not negative")),
    Case("certify model", lambda v: certify(v, (3,)), "net", MODEL, ("torch.nn.Module", "str"), InvalidNetworkError),
    Case("certify input_shape", lambda v: certify(MODEL, v), 3, (3,), ("input_shape", "3", "tuple"),
         InvalidNetworkError),
    Case("certify input_shape", lambda v: certify(MODEL, v), (0,), (3,), ("input_shape", "(0,)", "positive"),
         InvalidNetworkError),
    Case("certify input_shape", lambda v: certify(MODEL, v), (5,), (3,), ("0: ", "(5,)", "without the batch axis"),
         InvalidNetworkError),
    Case("certify layer", lambda v: certify(network(v), (3,)), nn.LSTM(2, 2), nn.Tanh(),
         ("3: ", "LSTM", "Unroll it"), UnsupportedLayerError),
    Case("certify function", lambda v: certify(network(v), (3,)), nn.RReLU(), nn.ReLU(),
         ("3: ", "RReLU", "ReLU6", "docs/layers.md"), UnsupportedLayerError),
    Case("certify weights", lambda v: certify(v, (3,)), with_nan(), MODEL, ("2: ", "weight", "NaN", "1 of 8"),
         InvalidNetworkError),
    Case("certify output", lambda v: certify(network(v), (3,)), Pair(), nn.Identity(), ("one tensor", "tuple"),
         InvalidNetworkError),
    Case("certify branches", lambda v: certify(network(v), (3,)), Branching(), nn.ReLU(),
         ("control flow", "depends on data"), InvalidNetworkError),
    Case("certify state", lambda v: certify(network(v), (3,)), Counting(), nn.Identity(),
         ("'calls'", "keep it constant"), InvalidNetworkError),
    Case("certify domain", lambda v: certify(MODEL, (3,), domain=v), Box(torch.zeros(7), 1.0), Box(torch.zeros(3), 1.0),
         ("Box", "low", "(3,)", "(7,)")),
    Case("certify output", lambda v: certify(network(Pair()), (3,), output=v), "logits.1", 1, ("0, 1", "'logits'")),
    Case("certify input", lambda v: certify(MODEL, (3,), input=v), "x", "input", ("a dict with 'x'", "but input"),
         InvalidNetworkError),
    Case("certify fixed", lambda v: certify(MODEL, (3,), fixed=v), {"t": 0.5}, {}, ("arguments of forward", "'t'")),
    Case("check input_shape", lambda v: lipguard.check(MODEL, v), 3, (3,), ("input_shape", "3"), InvalidNetworkError),
    Case("LipschitzMonitor module", lambda v: LipschitzMonitor(module=v), 3, "net", ("module", "3"),
         MisconfigurationException),
    Case("plan model", lambda v: plan(v, (3,)), None, MODEL, ("torch.nn.Module", "NoneType"), InvalidNetworkError),
    Case("certify_many models", lambda v: certify_many([MODEL, v], (3,)), "net", MODEL, ("torch.nn.Module", "str"),
         InvalidNetworkError),
    Case("verify model", lambda v: verify(CERTIFICATE, v), network(nn.ReLU()), MODEL, ("other weights", "digests"),
         CertificateError),
    Case("verify failure_probability", lambda v: verify(CERTIFICATE, MODEL, failure_probability=v), 2, 0.5,
         ("failure_probability", "2", "below 1")),
    Case("verify domain", lambda v: verify(CERTIFICATE, MODEL, domain=v), 3, Box(0.0, 1.0),
         ("domain", "3", "a Box, a Ball or None")),
    Case("Certificate state", Certificate.from_state, {}, CERTIFICATE.to_state(), ("state", "'metadata'"),
         CertificateError),
    Case("certify_margins report", lambda v: certify_margins(MODEL, (3,), v), certify(network(nn.ReLU()), (3,)), REPORT,
         ("report", "other weights", "certify it again"), CertificateError),
    Case("certify_margins pairs", lambda v: certify_margins(MODEL, (3,), REPORT, pairs=[v]), (0, 7), (0, 1),
         ("pairs", "(0, 7)", "two of 2 classes")),
    Case("certify_margins model", lambda v: certify_margins(v, (3,), certify(v, (3,))), network(nn.Linear(2, 1)),
         MODEL, ("two classes or more", "('batch', 1)"), InvalidNetworkError),
    Case("verify_margin i", lambda v: verify_margin(
        certify_margins(MODEL, (3,), REPORT).certificate(0, 1), MODEL, v, 1  # type: ignore[arg-type]
    ), 9, 0, ("pairs", "(9, 1)")),
    Case("Margins logits", lambda v: Margins.of_bound(1.0, 2).certified_radius(v), LOGITS[0], LOGITS,
         ("logits", "(n, 2)", "(2,)"), ValueError),
    Case("Margins error", lambda v: Margins.of_bound(1.0, 2).certified_radius(LOGITS, v), -1.0, 1e-3,
         ("error", "negative"), ValueError),
    Case("register module", lambda v: register(v, slope=(0, 1)), 3, Own, ("torch.nn.Module", "3")),
    Case("register slope", lambda v: register(Own, slope=v), (1, 0.5), (0.5, 1), ("slope", "(1, 0.5)", "in order")),
    Case("register group", lambda v: register(Own, group=v), 0, 2, ("group", "0", "positive integer")),
    Case("register property", lambda v: register(Own, **v), {}, {"affine": True}, ("slope", "group", "affine", "one")),
    Case("CertifiedAccuracy epsilon", lambda v: CertifiedAccuracy(epsilon=v), -1, 0.1, ("epsilon", "-1", "at least 0")),
    Case("CertifiedAccuracy epsilon", lambda v: CertifiedAccuracy(epsilon=v), None, 0.1, ("epsilon", "None")),
    Case("CertifiedAccuracy input_std", lambda v: CertifiedAccuracy(input_std=v), None, 1.0, ("input_std", "None")),
    Case("CertifiedAccuracy num_classes", lambda v: CertifiedAccuracy(num_classes=v), 1, 2, ("num_classes", "1")),
    Case("CertifiedAccuracy input_std", lambda v: CertifiedAccuracy(input_std=v), 0, 1.0, ("input_std", "positive")),
    Case("CertifiedAccuracy target", lambda v: CertifiedAccuracy(num_classes=2).update(LOGITS, v, bound=1.0),
         TARGET[:2], TARGET, ("target", "(n,)", "(2,)"), ValueError),
    Case("CertifiedAccuracy bound", lambda v: CertifiedAccuracy(num_classes=2).update(LOGITS, TARGET, bound=v),
         -1.0, 1.0, ("bound", "-1.0", "not negative"), ValueError),
    Case("LipschitzBound input_shape", LipschitzBound, 3, (3,), ("input_shape", "3", "(1, 28, 28)")),
    Case("LipschitzBound config", lambda v: LipschitzBound((3,), v), {}, DCPConfig(), ("config", "{}", "DCPConfig")),
    Case("LipschitzBound model", lambda v: LipschitzBound((3,)).update(v), "net", MODEL, ("model", "str"), TypeError),
    Case("LipschitzMonitor every_n_epochs", lambda v: LipschitzMonitor(every_n_epochs=v), 0, 1,
         ("every_n_epochs", "0", "at least 1"), MisconfigurationException),
    Case("LipschitzMonitor epsilons", lambda v: LipschitzMonitor(epsilons=v), (-1.0,), (0.1,), ("epsilon", "-1"),
         MisconfigurationException),
    Case("LipschitzPenalty vectors", lambda v: LipschitzPenalty(MODEL, (3,), vectors=v), 0, 1,
         ("vectors", "0", "at least 1")),
    Case("LipschitzPenalty input_shape", lambda v: LipschitzPenalty(MODEL, v), (7,), (3,), ("0: ", "(7,)"),
         InvalidNetworkError),
    Case("certify config", lambda v: certify(MODEL, (3,), v), {"solver": "scs"}, DCPConfig(solver="scs"), ("config",)),
    Case("certify warm_start", lambda v: certify(MODEL, (3,), warm_start=v), "r", REPORT, ("warm_start",)),
    Case("certify domain", lambda v: certify(MODEL, (3,), domain=v), 0.5, Ball(0.0, 0.5), ("domain",)),
    Case("certify data", lambda v: certify(MODEL, (3,), data=v), "x", torch.zeros(1, 3), ("data",)),
    Case("certify_many config", lambda v: certify_many([MODEL], (3,), v), {}, DCPConfig(), ("config",)),
    Case("plan config", lambda v: plan(MODEL, (3,), v), {}, DCPConfig(), ("config",)),
    Case("verify certificate", lambda v: verify(v, MODEL), REPORT, CERTIFICATE, ("certificate",)),
    Case("certify_margins report", lambda v: certify_margins(MODEL, (3,), v), CERTIFICATE, REPORT, ("report",)),
    Case("certify_margins pairs", lambda v: certify_margins(MODEL, (3,), REPORT, pairs=v), [1], [(0, 1)], ("pairs",)),
    Case("register slope", lambda v: register(Own, slope=v), 1.0, (0.0, 1.0), ("slope",)),
    Case("LipschitzPenalty model", lambda v: LipschitzPenalty(v, (3,)), "net", MODEL, ("torch.nn.Module", "str"),
         InvalidNetworkError),
    Case("Margins bound", lambda v: Margins.of_bound(v, 2), -1.0, 1.0, ("bound",), ValueError),
]  # fmt: skip
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} {CASES.index(case)}")


@pytest.fixture(autouse=True)
def nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model is as it was, so is its training flag, its certificate holds, and the folder is empty."""
    monkeypatch.chdir(tmp_path)
    known = dict(TABLE.own)
    weights, flags = copy.deepcopy(MODEL.state_dict()), [m.training for m in MODEL.modules()]
    yield
    TABLE.own.clear()
    TABLE.own.update(known)
    assert all(torch.equal(value, weights[name]) for name, value in MODEL.state_dict().items())
    assert [m.training for m in MODEL.modules()] == flags
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in MODEL.modules())
    assert verify(CERTIFICATE, MODEL) == REPORT.bound
    assert not list(tmp_path.iterdir())


def check(case: Case) -> None:
    before = repr(case.bad)
    with pytest.raises(case.error) as raised:
        case.call(case.bad)
    said = str(raised.value)
    assert "\n" not in said.strip()
    missing = [word for word in case.words if word not in said]
    assert not missing, f"{missing} not in: {said}"
    assert repr(case.bad) == before


@EACH
def test_it_is_refused_in_one_line_that_says_where_what_and_why(case: Case) -> None:
    check(case)


@EACH
def test_the_smallest_change_mends_it(case: Case) -> None:
    with pytest.raises(case.error):
        case.call(case.bad)
    case.call(case.good)


def test_every_public_name_has_a_case() -> None:
    """But for what is only handed out."""
    tried = {case.name.split()[0] for case in CASES} | {"select"}  # see below
    assert set(lipguard.__all__) - {"__version__", "Report"} == tried


def test_files_that_are_no_certificates_are_refused_with_their_names(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    for content in (b"", b"no zip", CERTIFICATE.save(path).read_bytes()[:-30]):
        path.write_bytes(content)
        with pytest.raises(CertificateError, match=r"c\.npz is not a readable certificate: ") as raised:
            Certificate.load(path)
        assert "\n" not in str(raised.value)
    path.unlink()
    with pytest.raises(CertificateError, match=r"c\.npz is not a readable certificate: .*No such file"):
        Certificate.load(path)
    with pytest.raises(OSError, match="No such file"):
        CERTIFICATE.save(tmp_path / "folder" / "c.npz")


def test_runs_that_are_not_there_are_refused_with_their_names() -> None:
    with pytest.raises(ConfigError, match=r"a checkpoint or a folder of them, but there is nothing at .*no_folder\.$"):
        select(["no_folder"], lambda path: MODEL)
