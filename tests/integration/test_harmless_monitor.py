"""A monitor never ends a training, and never changes its course: the weights are, bit by bit, those without it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from helpers.odd_models import ODD_MODELS, plain
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.logger import Logger
from tiny_training import LIGHTNING_WARNINGS, trainer
from torch import Tensor, nn

from lipguard import LipschitzMonitor
from lipguard.callbacks import certified, guards, measuring, observed
from lipguard.callbacks.loggers.tensorboard import TensorBoard
from lipguard.trusted.reading import trace

pytestmark = [LIGHTNING_WARNINGS, pytest.mark.filterwarnings("ignore:.*training goes on:UserWarning")]

State = dict[str, Tensor]


class Classifier(pl.LightningModule):
    """Cross entropy of two classes, by plain gradient descent."""

    def __init__(self, net: nn.Module, penalised: LipschitzMonitor | None = None) -> None:
        super().__init__()
        self.net, self.head, self.penalised = net, next(iter(net.children()), None), penalised

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]).float(), batch[1])
        return loss if self.penalised is None else loss + 0.01 * self.penalised.penalty()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]).float(), batch[1]), batch_size=len(batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1, momentum=0.5)


def data(shuffle: bool = True) -> torch.utils.data.DataLoader[Any]:
    """Shuffled, the order depends on the random numbers that were drawn before."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(24, 4, generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long()), 8, shuffle=shuffle)


def trained(folder: Path, make: Callable[[], nn.Module], *callbacks: pl.Callback, **options: Any) -> State:
    """The weights, and all else that a checkpoint holds, after three epochs."""
    torch.manual_seed(0)
    model = Classifier(make())
    torch.manual_seed(1)
    fitter = trainer(folder, *callbacks, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers")
        fitter.fit(model, data(), data(False))
    assert fitter.current_epoch == 3
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one: State, other: State) -> None:
    assert list(one) == list(other)
    for name in one:
        assert torch.equal(one[name], other[name]), name


UNFIT = ("a hook that fails", "layers in a list", "bfloat16", "mixed modes")  # of themselves
TRAINABLE = [name for name in ODD_MODELS if name not in UNFIT]


@pytest.mark.parametrize("name", TRAINABLE)
def test_the_weights_are_the_same_for_every_model(tmp_path: Path, name: str) -> None:
    make = ODD_MODELS[name]
    assert_same(trained(tmp_path, make), trained(tmp_path, make, LipschitzMonitor()))


class Odd(BaseException):
    """As extensions raise, that are written in other languages."""


def raising(error: BaseException, draws: bool = True) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        if draws:
            torch.rand(3)
        raise error

    return fail


WHERE: dict[str, tuple[Any, str]] = {
    "certify": (measuring, "certify"), "plan": (guards, "plan"), "reading": (trace, "in_eval_mode"),
    "margins": (certified, "certify_margins"), "fingerprint": (measuring, "fingerprint"),
    "the first input": (observed, "first_input"), "logits": (certified, "recompute"),
    "reading for logits": (certified, "read"), "labels": (observed, "tensors_of"),
    "figures": (TensorBoard, "show"), "preparing loggers": (TensorBoard, "prepare"),
}  # fmt: skip


ERRORS = (RuntimeError("on fire"), MemoryError(), RecursionError(), Odd("panic"))


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> State:
    """The weights without a monitor."""
    return trained(tmp_path_factory.mktemp("usual"), plain)


@pytest.mark.parametrize(
    ("where", "error"),
    [
        *(("certify", error) for error in ERRORS),
        *((where, ERRORS[k % len(ERRORS)]) for k, where in enumerate(WHERE) if where != "certify"),
    ],
    ids=repr,
)
def test_whatever_raises_costs_the_training_nothing(
    tmp_path: Path, usual: State, where: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = where in ("the first input", "labels", "figures", "preparing loggers")  # and draws nothing
    monkeypatch.setattr(*WHERE[where], raising(error, not looks))
    monitor = LipschitzMonitor(input_shape=(4,))
    assert_same(usual, trained(tmp_path, plain, monitor, logger=TensorBoardLogger()))


def test_an_interrupt_of_a_certificate_is_one_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting(pl.Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                raise KeyboardInterrupt

    outcomes = []
    monkeypatch.setattr(measuring, "certify", raising(KeyboardInterrupt()))
    for callback in (Interrupting(), LipschitzMonitor(input_shape=(4,))):
        fitter = trainer(tmp_path, callback)
        try:
            fitter.fit(Classifier(plain()), data(), data(False))
            outcomes.append(("returned", fitter.interrupted, fitter.state.status))
        except BaseException as error:
            outcomes.append((type(error).__name__, fitter.interrupted, fitter.state.status))
    assert outcomes[0] == outcomes[1]


def test_margins_that_were_interrupted_interrupt_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, epochs = certified.certify_margins, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        from lipguard.certifying.attempts import ways

        def stopped(*_: Any) -> None:
            raise KeyboardInterrupt

        epochs.append(1)
        with monkeypatch.context() as patch:
            patch.setattr(ways, "prove", stopped)
            return own(*args, **kwargs)

    monkeypatch.setattr(certified, "certify_margins", interrupted)
    fitter = trainer(tmp_path, LipschitzMonitor(input_shape=(4,)))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fitter.fit(Classifier(plain()), data(), data(False))
    assert len(epochs) == 1


class Broken(Logger):
    """Takes what the trainer logs; whatever else is asked of it fails."""

    name, version = "broken", 0

    experiment = object()  # without a method

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        pass

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


class TensorBoardLogger(Broken):
    """Taken for one by its name."""


@pytest.mark.parametrize("kind", [Broken, TensorBoardLogger])
def test_loggers_that_fail_cost_their_figures(tmp_path: Path, kind: type[Logger]) -> None:
    options = {"logger": [kind(), CSVLogger(tmp_path)]}
    assert_same(trained(tmp_path, plain, **options), trained(tmp_path, plain, LipschitzMonitor(), **options))


@pytest.mark.filterwarnings("ignore:.*AMP with fp16 is not supported on CPU")
@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "bf16-mixed", "16-mixed", "64-true", "32-true"])
def test_precisions(tmp_path: Path, precision: Any) -> None:
    monitor = LipschitzMonitor()
    usual = trained(tmp_path, plain, precision=precision)
    assert_same(usual, trained(tmp_path, plain, monitor, precision=precision))
    assert all(0 < row["bound"] <= row["product_bound"] < 10 for row in monitor.history)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "32-true"])
def test_a_penalty_in_any_precision(tmp_path: Path, precision: Any) -> None:
    monitor = LipschitzMonitor(input_shape=(4,))
    torch.manual_seed(0)
    model = Classifier(plain(), monitor)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers")
        fitter = trainer(tmp_path, monitor, precision=precision)
        fitter.fit(model, data(), data(False))
    assert fitter.current_epoch == 3
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_state_that_cannot_be_read_is_a_warning() -> None:
    monitor = LipschitzMonitor()
    with pytest.warns(match="load_state_dict failed"):
        monitor.load_state_dict({})


def test_a_loop_of_fabric_goes_on() -> None:
    fabric_module = pytest.importorskip("lightning.fabric")
    import lipguard

    found = []
    for certifies in (False, True):
        fabric = fabric_module.Fabric(accelerator="cpu", devices=1)
        torch.manual_seed(0)
        own = plain()
        model, optimizer = fabric.setup(own, torch.optim.SGD(own.parameters(), 0.1))
        for _ in range(3):
            optimizer.zero_grad()
            fabric.backward(model(torch.ones(3, 4)).square().sum())
            optimizer.step()
            if certifies:
                assert lipguard.certify(model, (4,)).bound == lipguard.certify(own, (4,)).bound
        found.append([p.detach().clone() for p in own.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
