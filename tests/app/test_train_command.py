from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from lipguard.app.classifier.checkpoints import load_classifier
from lipguard.app.data.images import DigitsData
from lipguard.app.verbs.train import train
from lipguard.errors import ConfigError

FEW = ("+trainer.limit_train_batches=6", "+trainer.limit_val_batches=2", "lipschitz.max_iterations=100")
NO_BOUND = (
    "~callbacks.lipschitz",
    "callbacks.checkpoint.monitor=val/loss",
    "callbacks.checkpoint.filename=best",
    "optimized_metric=val/accuracy",
    "plot=false",
    "logger=none",
)


def test_whole_run(compose, tmp_path: Path, capsys) -> None:
    bound = train(compose("train", "trainer.max_epochs=2", *FEW))
    folder, output = tmp_path / "run", capsys.readouterr().out

    metrics = pd.read_csv(folder / "csv" / "metrics.csv").groupby("epoch").last()
    assert metrics["lipschitz/bound"].iloc[-1] == pytest.approx(bound)
    assert (metrics["lipschitz/bound"] <= metrics["lipschitz/product_bound"]).all()
    assert (metrics["lipschitz/lower_bound"] <= metrics["lipschitz/bound"]).all()
    assert metrics["val/accuracy"].between(0, 1).all()
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    assert (folder / "accuracy_and_bounds.png").read_bytes().startswith(b"\x89PNG")

    (best,) = (folder / "checkpoints").glob("epoch_*.ckpt")
    assert best.name.startswith(f"epoch_{metrics['lipschitz/bound'].idxmin():02d}-bound_")
    assert load_classifier(best).input_shape == (1, 8, 8)
    lines = output.splitlines()
    assert any(line.startswith("epoch  accuracy   ") for line in lines)
    assert f"{metrics['lipschitz/bound'].iloc[0]:.4f}"[:-2] in output
    for path in (best, folder / "tensorboard", folder / "csv", folder / "accuracy_and_bounds.png"):
        assert str(path) in output


def test_interrupted_and_resumed_equals_uninterrupted(compose, tmp_path: Path, capsys) -> None:
    def weights(name: str, *overrides: str) -> dict[str, torch.Tensor]:
        train(compose("train", *FEW, *NO_BOUND, f"paths.output_dir={tmp_path / name}", *overrides))
        return load_classifier(tmp_path / name / "checkpoints" / "last.ckpt").state_dict()

    whole = weights("whole", "trainer.max_epochs=2")
    weights("resumed", "trainer.max_epochs=1")
    half = tmp_path / "half.ckpt"
    (tmp_path / "resumed" / "checkpoints" / "last.ckpt").rename(half)
    (tmp_path / "resumed" / "checkpoints" / "best.ckpt").unlink()
    capsys.readouterr()
    resumed = weights("resumed", "trainer.max_epochs=2", f"checkpoint={half}")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    table = capsys.readouterr().out.split("epoch  accuracy\n")[1].splitlines()
    assert [line.split()[0] for line in table[:2]] == ["0", "1"]  # the epoch before the interruption is remembered


def test_learns_the_digits(compose, tmp_path: Path) -> None:
    accuracy = train(compose("train", *NO_BOUND, "trainer.max_epochs=6"))
    assert accuracy is not None
    assert accuracy > 0.9


def test_trained_images_are_within_range_of_the_model(compose) -> None:
    data = DigitsData()
    data.setup()
    assert data.input_shape == tuple(compose("train").model.input_shape)


def test_unknown_optimized_metric_lists_the_choices(compose) -> None:
    with pytest.raises(ConfigError, match=r"optimized_metric to be one of .*val/accuracy.* but got val/acc\."):
        train(compose("train", "debug=fast", *NO_BOUND, "optimized_metric=val/acc"))


def test_no_optimized_metric(compose) -> None:
    assert train(compose("train", "debug=fast", *NO_BOUND, "optimized_metric=null")) is None


@pytest.mark.parametrize("key", ["paths.output_dir", "logger.csv.save_dir", "callbacks.checkpoint.dirpath"])
def test_unwritable_folder_is_refused_before_training(compose, tmp_path: Path, key: str) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "logs"
    with pytest.raises(ConfigError, match=rf"log folder {folder}"):
        train(compose("train", f"{key}={folder}"))
    assert not list(tmp_path.glob("run/**/*.csv"))


def test_checkpoint_of_another_architecture_is_refused(compose, tmp_path: Path) -> None:
    train(compose("train", "debug=fast", *NO_BOUND))
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(ConfigError, match=r"of another architecture: for net\.5\.bias expected shape \(16,\)"):
        train(compose("train", f"checkpoint={checkpoint}", "model.layers.5.features=16"))


def test_more_classes_than_outputs(compose) -> None:
    with pytest.raises(ConfigError, match="has 7 outputs, but the data have 10 classes"):
        train(compose("train", "model.layers.7.features=7"))


def test_trainer_misconfiguration_is_a_configuration_error(compose) -> None:
    with pytest.raises(ConfigError, match="never/logged"):
        train(compose("train", "debug=fast", *NO_BOUND, "callbacks.checkpoint.monitor=never/logged"))


def test_the_penalty_makes_bounds_small(compose, tmp_path: Path) -> None:
    bounds = []
    for penalty in (0.0, 0.3):
        folder = tmp_path / str(penalty)
        bounds.append(train(compose("train", "trainer.max_epochs=2", *FEW, f"lipschitz.penalty={penalty}",
                                    f"paths.output_dir={folder}", "plot=false")))  # fmt: skip
        model = load_classifier(folder / "checkpoints" / "last.ckpt")
        assert model.penalty == penalty
    assert bounds[1] < 0.8 * bounds[0]
    with pytest.raises(ConfigError, match="penalty to be a number of at least 0"):
        train(compose("train", *FEW, "lipschitz.penalty=-1"))
