"""The ways in which people train: each logs bounds of the network that is meant, and changes nothing."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import StochasticWeightAveraging
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from tiny_training import LIGHTNING_WARNINGS, Batches, Tiny, fit, trainer
from torch import Tensor, nn

import lipguard
from lipguard import LipschitzBound, LipschitzMonitor

pytestmark = LIGHTNING_WARNINGS


def expected(network: nn.Module, shape: tuple[int, ...] = (4,), **choice: Any) -> str:
    return lipguard.certify(network, shape, optimise=False, **choice).certificate.digest


def assert_last_row_is_of(monitor: LipschitzMonitor, network: nn.Module, **choice: Any) -> None:
    row = monitor.history[-1]
    assert math.isfinite(row["bound"]), row["status"]
    assert row["digest"] == expected(network, **choice)


# --- compiled ---


def test_a_compiled_module_is_bounded_as_itself(tmp_path: Path) -> None:
    model, monitor = Tiny(), LipschitzMonitor()
    fitter = trainer(tmp_path, monitor)
    fitter.fit(torch.compile(model, backend="eager"), Batches(), Batches())
    assert_last_row_is_of(monitor, model.net)


def test_a_compiled_part_is_bounded_as_itself(tmp_path: Path) -> None:
    model, monitor = Tiny(), LipschitzMonitor()
    net = model.net
    model.net = torch.compile(net, backend="eager")  # type: ignore[assignment]
    fit(model, trainer(tmp_path, monitor, max_epochs=1))
    assert_last_row_is_of(monitor, net)


# --- averages ---


def test_stochastic_weight_averaging(tmp_path: Path) -> None:
    model, monitor = Tiny(), LipschitzMonitor()
    fitter = trainer(tmp_path, monitor, StochasticWeightAveraging(0.1, swa_epoch_start=1), max_epochs=4)
    fit(model, fitter)
    assert len(monitor.history) >= 4
    assert all(math.isfinite(row["bound"]) for row in monitor.history)
    fitter.validate(model, Batches(), verbose=False)  # of the average, which Lightning puts in place at the end
    assert_last_row_is_of(monitor, model.net)


# --- validation ---


def test_several_validation_loaders(tmp_path: Path) -> None:
    class Model(Tiny):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # type: ignore[override]
            super().validation_step(batch, batch_idx)

    monitor = LipschitzMonitor()
    fitter = trainer(tmp_path, monitor, max_epochs=2)
    fitter.fit(Model(), Batches(), [Batches(), Batches()])
    assert len(monitor.history) == 2
    assert "lipschitz/certified_accuracy_eps_0.25" in fitter.callback_metrics


class Unvalidated(pl.LightningModule):
    """Without a forward of its own, and without any validation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def test_no_validation_and_no_forward(tmp_path: Path) -> None:
    model, monitor = Unvalidated(), LipschitzMonitor()
    with pytest.warns(match="Unvalidated itself cannot be read, bounds are of its part 'net'") as said:
        trainer(tmp_path, monitor, max_epochs=3).fit(model, Batches())
    assert sum("bounds are of its part" in str(warning.message) for warning in said) == 1
    assert len(monitor.history) == 3
    assert_last_row_is_of(monitor, model.net)


@pytest.mark.parametrize("how", ["validate", "test"])
@pytest.mark.parametrize("background", [False, True])
def test_validate_and_test_alone_log_the_keys(tmp_path: Path, how: str, background: bool) -> None:
    class Model(Tiny):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.validation_step(batch, batch_idx)

    model, monitor = Model().train(), LipschitzMonitor(background=background)
    fitter = trainer(tmp_path, monitor)
    getattr(fitter, how)(model, Batches(), verbose=False)
    assert float(fitter.callback_metrics["lipschitz/bound"]) >= monitor.history[0]["bound"]
    assert {"lipschitz/lower_bound", "lipschitz/certified_accuracy_eps_0.25"} <= set(fitter.callback_metrics)
    assert_last_row_is_of(monitor, model.net)
    before = dict(monitor.history[0])
    getattr(fitter, how)(model, Batches(), verbose=False)  # of the same weights
    assert len(monitor.history) == 1
    assert monitor.history[0] == before
    assert "lipschitz/certified_accuracy_eps_0.25" in fitter.callback_metrics


def test_validation_after_a_fit_logs_its_last_bound(tmp_path: Path) -> None:
    monitor = LipschitzMonitor()
    fitter = trainer(tmp_path, monitor, max_epochs=1)
    model = fit(Tiny(), fitter)
    fitter.validate(model, Batches(), verbose=False)
    assert float(fitter.callback_metrics["lipschitz/bound"]) >= monitor.history[0]["bound"]
    assert len(monitor.history) == 1


# --- which network ---


class Gan(pl.LightningModule):
    """A WGAN by manual optimisation: its forward is the generator, from another space than the data's."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 4))
        self.critic = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.2), nn.Linear(6, 1))

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z)  # type: ignore[no-any-return]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = batch[0]
        generator, critic = self.optimizers()  # type: ignore[misc]
        fake = self(torch.randn(len(real), 2))
        for optimizer, loss in (
            (critic, self.critic(fake.detach()).mean() - self.critic(real).mean()),
            (generator, -self.critic(fake).mean()),
        ):  # fmt: skip
            optimizer.zero_grad()
            self.manual_backward(loss, retain_graph=True)
        for optimizer in (critic, generator):
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(part.parameters(), lr=0.01) for part in (self.generator, self.critic)]


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.2), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(-1)  # type: ignore[no-any-return]


def gan() -> Gan:
    torch.manual_seed(0)
    found = Gan()
    found.critic = Critic()  # type: ignore[assignment]
    return found


def test_the_critic_of_a_gan_is_found_and_said_once(tmp_path: Path) -> None:
    model, monitor = gan(), LipschitzMonitor()
    with pytest.warns(match="its part 'critic', the largest that can be"):
        trainer(tmp_path, monitor, max_epochs=2).fit(model, Batches())
    assert len(monitor.history) == 2
    assert_last_row_is_of(monitor, model.critic)


def test_a_part_by_name(tmp_path: Path) -> None:
    model = gan()
    critic, generator = LipschitzMonitor(module="critic"), LipschitzMonitor(
        module="generator", input_shape=(2,), log_prefix="generator"
    )  # fmt: skip
    fitter = trainer(tmp_path, critic, generator, max_epochs=1)
    fitter.fit(model, Batches())
    assert_last_row_is_of(critic, model.critic)
    assert generator.history[-1]["digest"] == expected(model.generator, (2,))
    assert {"lipschitz/bound", "generator/bound"} <= set(fitter.callback_metrics)


def test_a_part_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"\(generator, critic\), but got 'discriminator'"):
        trainer(tmp_path, LipschitzMonitor(module="discriminator")).fit(gan(), Batches())


def test_the_part_of_a_classifier_is_certified_as_it_is_called(tmp_path: Path) -> None:
    monitor = LipschitzMonitor(module="net")
    fit(Tiny(), trainer(tmp_path, monitor, max_epochs=1))
    assert "certified_accuracy_eps_0.25" in monitor.history[-1]


class WithTime(Tiny):
    """Its forward takes a time, and returns features, too."""

    def forward(self, x: Tensor, t: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        features = self.net[:2](x + t) if isinstance(t, float) else self.net[1](self.net[0](x + t))
        return {"features": features, "logits": self.net[2](features)}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0], torch.zeros(len(batch[0]), 1))["logits"], batch[1])


def test_one_function_of_several_inputs_and_outputs(tmp_path: Path) -> None:
    choice: dict[str, Any] = {"output": "logits", "input": "x", "fixed": {"t": torch.tensor([[0.5]])}}
    model, monitor = WithTime(), LipschitzMonitor(epsilons=(), **choice)
    fit(model, trainer(tmp_path, monitor, max_epochs=1, limit_val_batches=0))
    assert_last_row_is_of(monitor, model, **choice)


class Dictionaries(Batches):
    def __iter__(self) -> Iterator[Any]:
        return ({"label": y, "image": x} for x, y in super().__iter__())


class OfDictionaries(Tiny):
    """Its forward takes a batch, and logs."""

    def forward(self, batch: Any) -> Tensor:
        y: Tensor = self.net(batch["image"])
        self.log("mean", y.mean(), batch_size=1)
        return y

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch), batch["label"])


def test_a_forward_of_dicts_that_logs(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    model, monitor = OfDictionaries(), LipschitzMonitor()
    fitter = trainer(tmp_path, monitor, max_epochs=1, limit_val_batches=0)
    fitter.fit(model, Dictionaries())
    assert_last_row_is_of(monitor, model.net)
    assert not any("cannot be read" in str(warning.message) for warning in recwarn)


# --- steps of several optimizers ---


def test_solves_after_steps_of_two_optimizers_are_not_stepped_over(tmp_path: Path) -> None:
    monitor = LipschitzMonitor(module="critic", every_n_train_steps=3)
    trainer(tmp_path, monitor, max_epochs=2).fit(gan(), Batches())  # 2 steps per batch, 12 in all
    assert [row["step"] for row in monitor.history if row["status"] == "complete"] == [4, 6, 10, 12]


class Uncounted(Gan):
    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        return super().optimizers(use_pl_optimizer=False)


@pytest.mark.parametrize(("kind", "every"), [(Gan, 1000), (Uncounted, 1)])
def test_steps_that_never_come_are_told_once(tmp_path: Path, kind: type[Gan], every: int) -> None:
    model = kind()
    model.critic = Critic()  # type: ignore[assignment]
    monitor = LipschitzMonitor(module="critic", every_n_train_steps=every)
    with pytest.warns(match=f"every_n_train_steps={every} was never reached") as said:
        trainer(tmp_path, monitor, max_epochs=2).fit(model, Batches())
    assert sum("was never reached" in str(warning.message) for warning in said) == 1


# --- in the background ---


def test_the_background_honours_the_schedule(tmp_path: Path) -> None:
    executor = ThreadPoolExecutor(1)
    monitor = LipschitzMonitor(background=True, warmup_epochs=2, max_queue=9, executor=executor)
    fit(Tiny(), trainer(tmp_path, monitor, max_epochs=4))
    assert [row["epoch"] for row in monitor.history] == [2, 3]
    monitor = LipschitzMonitor(background=True, every_n_train_steps=4, max_queue=9, executor=executor)
    fit(Tiny(), trainer(tmp_path, monitor, max_epochs=4))
    assert [row["step"] for row in monitor.history] == [4, 8, 12]
    executor.shutdown()


# --- without a Trainer ---


def test_a_plain_loop_with_the_metric() -> None:
    torch.manual_seed(0)
    model = torch.compile(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), backend="eager")
    metric, optimizer = LipschitzBound(input_shape=(4,)), torch.optim.SGD(model.parameters(), lr=0.5)
    bounds = []
    for _ in range(2):
        for x, y in Batches():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        metric.update(model)
        bounds.append(float(metric.compute()))
        assert model.training
    assert bounds[1] == pytest.approx(lipguard.certify(model, (4,)).bound, rel=1e-3)


# --- processes ---


@pytest.mark.slow
def test_spawned_processes_bring_the_history_back(tmp_path: Path) -> None:
    monitor = LipschitzMonitor()
    options = {"strategy": "ddp_spawn", "devices": 2, "max_epochs": 2, "use_distributed_sampler": False}
    model = fit(Tiny(), trainer(tmp_path, monitor, **options))
    assert [row["epoch"] for row in monitor.history] == [0, 1]
    assert monitor.history is monitor.history
    assert monitor.state_dict()["warm_start"] is not None
    assert model is not None


SCRIPT = """
import json, sys
sys.path[:0] = {path!r}
from pathlib import Path
from tiny_training import Batches, Tiny, trainer
from lipguard import LipschitzMonitor

monitor = LipschitzMonitor()
fitter = trainer(Path({folder!r}), monitor, strategy="ddp", devices=2, max_epochs=2, use_distributed_sampler=False)
fitter.fit(Tiny(), Batches(), Batches())
bounds = [row["bound"] for row in monitor.history]
Path({folder!r}, f"rank{{fitter.global_rank}}.json").write_text(json.dumps(bounds))
fitter.strategy.barrier()
"""


@pytest.mark.slow
def test_two_processes_of_ddp(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(path=[str(Path(__file__).parent), *sys.path], folder=str(tmp_path)))
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert len(first) == 2


CLI = """
trainer:
  max_epochs: 1
  accelerator: cpu
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
  default_root_dir: {folder}
  callbacks:
    - class_path: lipguard.LipschitzMonitor
      init_args:
        every_n_epochs: 1
        input_shape: [4]
        module: net
        config:
          class_path: lipguard.DCPConfig
          init_args: {{max_seconds: 30}}
"""


class CliData(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return Batches()

    val_dataloader = train_dataloader


@pytest.mark.filterwarnings("ignore")  # of the two packages about each other
@pytest.mark.skipif(
    importlib.util.find_spec("jsonargparse") is None, reason="the package jsonargparse is not installed"
)
def test_lightning_cli_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_lightning.cli import LightningCLI

    (tmp_path / "config.yaml").write_text(CLI.format(folder=tmp_path))
    monkeypatch.setattr(sys, "argv", ["train.py", "fit", "--config", str(tmp_path / "config.yaml")])
    cli = LightningCLI(Unvalidated, CliData, save_config_callback=None, seed_everything_default=0)
    monitor = next(own for own in cli.trainer.callbacks if isinstance(own, LipschitzMonitor))
    assert monitor.settings.config.max_seconds == 30
    assert_last_row_is_of(monitor, cli.model.net)
