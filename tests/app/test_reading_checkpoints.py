from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lipguard.app.classifier.checkpoints import load_classifier, require_same_architecture
from lipguard.app.classifier.models import Classifier
from lipguard.errors import ConfigError

LAYERS = [{"kind": "flatten"}, {"kind": "linear", "features": 3}]


@pytest.fixture
def model() -> Classifier:
    return Classifier(LAYERS, (1, 2, 2))


def save(path: Path, model: Classifier, **changes: object) -> Path:
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)} | changes
    torch.save(content, path)
    return path


def test_network_is_rebuilt(tmp_path: Path, model: Classifier) -> None:
    loaded = load_classifier(save(tmp_path / "a.ckpt", model))
    image = torch.rand(5, 1, 2, 2)
    assert torch.equal(loaded(image), model(image))
    assert not loaded.training
    require_same_architecture(tmp_path / "a.ckpt", model)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"there is none at {tmp_path / 'none.ckpt'}"):
        load_classifier(tmp_path / "none.ckpt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 nor a zip file"])
def test_not_a_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{path}: expected a checkpoint written by .lipguard train., but it is not"):
        load_classifier(path)


def test_truncated_checkpoint(tmp_path: Path, model: Classifier) -> None:
    path = save(tmp_path / "a.ckpt", model)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ConfigError, match="or is damaged"):
        load_classifier(path)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, model: Classifier) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    path = save(tmp_path / "a.ckpt", model, extra=Payload())
    with pytest.raises(ConfigError, match="it is not one"):
        load_classifier(path)
    assert not (tmp_path / "executed").exists()


def test_checkpoint_without_weights_or_architecture(tmp_path: Path, model: Classifier) -> None:
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ConfigError, match="it holds no state_dict"):
        load_classifier(tmp_path / "list.ckpt")
    with pytest.raises(ConfigError, match="does not hold the architecture of a lipguard Classifier"):
        load_classifier(save(tmp_path / "a.ckpt", model, hyper_parameters={"lr": 1.0}))


def test_architecture_that_cannot_be_rebuilt(tmp_path: Path, model: Classifier) -> None:
    settings = dict(model.hparams) | {"layers": [{"kind": "mystery"}]}
    with pytest.raises(ConfigError, match=r"cannot be rebuilt: .*mystery"):
        load_classifier(save(tmp_path / "a.ckpt", model, hyper_parameters=settings))
    settings = dict(model.hparams) | {"width": 3}
    with pytest.raises(ConfigError, match=r"cannot be rebuilt: .*width"):
        load_classifier(save(tmp_path / "b.ckpt", model, hyper_parameters=settings))


def test_weights_of_another_architecture(tmp_path: Path, model: Classifier) -> None:
    other = Classifier([{"kind": "flatten"}, {"kind": "linear", "features": 5}], (1, 2, 2))
    path = save(tmp_path / "a.ckpt", other)
    message = r"of another architecture: for net\.1\.bias expected shape \(3,\), but found shape \(5,\)"
    with pytest.raises(ConfigError, match=message):
        require_same_architecture(path, model)
    with pytest.raises(ConfigError, match=message):
        load_classifier(save(path, other, hyper_parameters=dict(model.hparams)))
    deeper = Classifier([*LAYERS, {"kind": "linear", "features": 3}], (1, 2, 2))
    with pytest.raises(ConfigError, match=r"for net\.2\.bias expected shape \(3,\), but found no weight"):
        require_same_architecture(save(path, model), deeper)
