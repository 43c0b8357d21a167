from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lipguard import DCPConfig
from lipguard.app.building import build, build_all, dcp_config
from lipguard.app.classifier.models import Classifier
from lipguard.app.console.folders import config_folder
from lipguard.errors import ConfigError

FOLDER = config_folder()
CHOICES = sorted(f"{path.parent.name}={path.stem}" for path in FOLDER.glob("*/*.yaml"))
MODELS = sorted(path.stem for path in (FOLDER / "model").glob("*.yaml"))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_file_composes(compose, choice: str) -> None:
    verb = "certify" if choice.startswith("executor=") else "train"
    OmegaConf.to_container(compose(verb, choice), resolve=True)


def test_default_bound_settings_are_the_defaults_of_the_code(compose) -> None:
    node = compose("train").lipschitz
    assert instantiate(node) == dcp_config(node) == DCPConfig()
    assert {key for key in node if not key.startswith("_")} == {*DCPConfig().to_dict(), "penalty"}
    assert node.penalty == 0


def test_paper_settings_are_those_of_the_code(compose) -> None:
    assert dcp_config(compose("certify", "lipschitz=paper").lipschitz) == DCPConfig.paper()


def test_unknown_bound_setting_lists_the_choices(compose) -> None:
    with pytest.raises(ConfigError, match=r"Unknown option speed.*max_block_size"):
        dcp_config(compose("certify", "+lipschitz.speed=1").lipschitz)


@pytest.mark.parametrize("name", MODELS)
def test_models_can_be_built(compose, name: str) -> None:
    model = build(compose("plan", f"model={name}").model)
    assert isinstance(model, Classifier)
    assert model.num_classes == 10
    assert type(model.hparams.layers) is list  # plain values, not Hydra's: a checkpoint has to hold them
    assert type(model.hparams.layers[0]) is dict


def test_monitor_gets_the_settings(compose) -> None:
    cfg = compose("train", "lipschitz.max_block_size=123", "callbacks.lipschitz.every_n_epochs=2")
    monitor, checkpoint, *_ = build_all(cfg.callbacks)
    assert monitor.config == DCPConfig(max_block_size=123)
    assert monitor.every_n_epochs == 2
    assert (checkpoint.monitor, checkpoint.mode) == ("lipschitz/bound", "min")


def test_logger_group(compose, tmp_path: Path) -> None:
    names = [type(logger).__name__ for logger in build_all(compose("train").logger)]
    assert names == ["CSVLogger", "TensorBoardLogger"]
    assert build_all(compose("train", "logger=none").get("logger")) == []


def test_missing_value_and_wrong_arguments_are_named(compose) -> None:
    with pytest.raises(ConfigError, match=r"data\.root has no value"):
        build(compose("train", "data=mnist").data)
    with pytest.raises(ConfigError, match=r"trainer.*speed"):
        build(compose("train", "+trainer.speed=1").trainer)
    with pytest.raises(ConfigError, match="validation_fraction between 0 and 1"):
        build(compose("train", "data.validation_fraction=2").data)
    with pytest.raises(ConfigError, match=r"max_epochs.*-5"):
        build(compose("train", "trainer.max_epochs=-5").trainer)


def test_missing_package_names_the_extra() -> None:
    def target() -> None:
        raise ModuleNotFoundError("No module named 'tensorboard'.")

    with pytest.raises(
        ConfigError, match=r"No module named 'tensorboard'. Install it with pip install .lipguard\[app\]"
    ):
        build(OmegaConf.create({"_target_": target}, flags={"allow_objects": True}))
