"""One's own model on the command line: what files hold, names with prefixes, and paths with anything in them."""

from __future__ import annotations

import collections
import json
import pathlib
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers.commands import message
from omegaconf import OmegaConf
from torch import Tensor, nn

import lipguard
from lipguard.app.command import VERBS
from lipguard.app.loading.models import model_of
from lipguard.app.loading.safetensors import tensors_of
from lipguard.app.loading.stored import stored
from lipguard.app.loading.weights import take_weights
from lipguard.errors import ConfigError


class Lit(pl.LightningModule):
    """As people write them: hyper-parameters are kept, the network has a name."""

    def __init__(self, hidden: int = 5, root: object = None, optimiser: object = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        self.example_input_array = torch.zeros(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def build(hidden: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def make(seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return build().eval()


HERE = f"{__name__}:"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])


def bound_of(model: nn.Module) -> float:
    return lipguard.certify(model, (4,)).bound


def config(builder: str | None = HERE + "build", shape: list[int] | None = None) -> object:
    return OmegaConf.create({"builder": builder, "input_shape": shape})


PLACES = {
    "plain": lambda weights: weights,
    "state_dict": lambda weights: {"epoch": 3, "state_dict": weights, "optimizer": {"lr": torch.ones(3)}},
    "model_state_dict": lambda weights: {"model_state_dict": weights, "loss": 0.1},
    "model": lambda weights: {"model": weights, "args": {"a": 1}},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model.net."])
def test_weights_are_found_wherever_trainers_put_them(place: str, prefix: str, tmp_path: Path) -> None:
    weights = {prefix + name: value for name, value in make().state_dict().items()}
    torch.save(PLACES[place](weights | {"criterion.weight": torch.ones(3)}), tmp_path / "a.pt")
    found = model_of(config(shape=[4]), str(tmp_path / "a.pt"))
    assert all(torch.equal(one, other) for one, other in
               zip(found.model.state_dict().values(), make().state_dict().values(), strict=True))  # fmt: skip
    assert not found.model.training
    assert "criterion.weight" in found.notes[-1]
    assert not prefix or repr(prefix) in found.notes[0]


def test_weights_of_a_part_are_the_whole_of_the_file(tmp_path: Path) -> None:
    model = Lit()
    notes = take_weights(model, make().state_dict(), tmp_path)
    assert torch.equal(model.net[0].weight, make()[0].weight)
    assert notes == ["they are those of the model's 'net'"]


@pytest.mark.parametrize(("weights", "words"), [
    ({}, "4 of 4 weights of the model are not there (0.weight, 0.bias, 2.weight, ...)"),
    ({"2.weight": torch.zeros(1)}, "3 of 4 weights of the model are not there"),
    (make().state_dict() | {"0.bias": torch.zeros(7)}, "for 0.bias the model has shape (5,), the file (7,)"),
])  # fmt: skip
def test_other_weights_are_refused_in_a_line(weights: dict[str, Tensor], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        take_weights(make(), weights, Path("a.pt"))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_lightning_checkpoint_has_settings_and_weights(command, capsys, tmp_path: Path) -> None:
    settings = {
        "hidden": np.int64(7), "root": pathlib.Path("a/b"),
        "optimiser": OmegaConf.create({"lr": 0.1, "betas": [0.9, 1]}),
        "unknown": np.float32(0.5), "counts": collections.defaultdict(list), "array": np.arange(3),
    }  # fmt: skip
    model = Lit(7)
    path = tmp_path / "epoch=0-step=23.ckpt"
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": settings, "pytorch-lightning_version": "2"}, path)
    assert command("plan", f"model={HERE}Lit", path.name) == 0
    assert command("certify", f"model={HERE}Lit", str(path), f"hydra.run.dir={tmp_path / 'run'}") == 0
    shown = capsys.readouterr().out
    assert f"{bound_of(model.eval()):.4g}"[:-1] in shown
    certificate = tmp_path / "run" / "certificate.npz"
    assert command("verify", str(certificate), str(path), f"model={HERE}Lit") == 0
    assert "Verified: on all inputs" in capsys.readouterr().out


def test_what_might_be_executed_is_named_and_not_read(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    path = tmp_path / "a.pt"
    for content in ({"state_dict": make().state_dict(), "hyper_parameters": {"x": Payload()}}, make()):
        torch.save(content, path)
        with pytest.raises(ConfigError, match="reading it might execute what is in it") as refused:
            stored(path)
        assert "weights_only" not in str(refused.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".pt2"])
def test_damaged_files_are_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        stored(path)


def test_numbers_alone_are_no_weights(tmp_path: Path) -> None:
    for content, seen in (([1], "list"), ({"epoch": 1, "loss": 0.5}, "the keys epoch, loss")):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(ConfigError, match=f"expected weights by name, as in a state_dict, but it holds {seen}"):
            stored(tmp_path / "a.pt")


def safetensors(header: object, numbers: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


def test_safetensors_are_read_as_they_are(tmp_path: Path) -> None:
    path, tensors = tmp_path / "a.safetensors", make().half().state_dict()
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    numbers = b""
    for name, value in tensors.items():
        own = value.numpy().tobytes()
        header[name] = {
            "dtype": "F16",
            "shape": list(value.shape),
            "data_offsets": [len(numbers), len(numbers) + len(own)],
        }
        numbers += own
    header["none"] = {"dtype": "F64", "shape": [0, 3], "data_offsets": [0, 0]}
    path.write_bytes(safetensors(header, numbers))
    found = tensors_of(path)
    assert found.keys() == {*tensors, "none"}
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert torch.equal(model_of(config(shape=[4]), str(path)).model[0].weight, tensors["0.weight"].float())


@pytest.mark.parametrize("entry", [
    {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, {"dtype": "Q9", "shape": [1], "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}, {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]},
    {}, 3,
])  # fmt: skip
def test_headers_that_lie_are_refused(entry: object, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(safetensors({"x": entry}, bytes(8)))
    with pytest.raises(ConfigError, match="is damaged"):
        tensors_of(tmp_path / "a.safetensors")


def test_an_exported_program_has_the_bound_of_its_model(command, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(), nn.Flatten(),
        nn.Linear(27, 4), nn.LeakyReLU(0.1), nn.Linear(4, 2),
    ).eval()  # fmt: skip
    model[1].running_var.fill_(0.3)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.zeros(2, 1, 6, 6),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "a.pt2")
    found = model_of(config(None, [1, 6, 6]), str(tmp_path / "a.pt2"))
    x = torch.randn(3, 1, 6, 6)
    assert torch.allclose(found.model(x), model(x))
    assert lipguard.certify(found.model, (1, 6, 6)).bound == lipguard.certify(model, (1, 6, 6)).bound


def test_onnx_without_its_converter_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    (tmp_path / "a.onnx").touch()
    with pytest.raises(ConfigError, match=r'pip install "lipguard\[onnx\]"'):
        stored(tmp_path / "a.onnx")


NAMES = [
    "epoch=0-step=23.ckpt", "a b.ckpt", "a,b.ckpt", "ünïcödé.ckpt", "[1].ckpt", "a'b.ckpt", 'a"b.ckpt', "a(b){c}.ckpt",
    "${a}.ckpt", "a\\b.ckpt", "a:b=c,d e.ckpt", "x=1", "~a.ckpt", "+a.ckpt",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_path_may_have_anything_in_it(compose, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("lr=0.1,wd=0")
    folder.mkdir()
    for verb, path in (("verify", name), ("certify", str(folder / name))):
        Path(path).touch()
        for argument in (path, f"checkpoint={path}"):
            assert compose(verb, *VERBS[verb].positional([argument])).checkpoint == path


def test_several_paths_are_a_list(compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [f"a={i},b.ckpt" for i in range(3)]
    for path in paths:
        Path(path).touch()
    assert list(compose("certify", *VERBS["certify"].positional([*paths, "lipschitz.seed=1"])).checkpoint) == paths
    runs = VERBS["select"].positional([*paths])
    assert list(compose("select", *runs).runs) == paths


def test_values_of_flags_are_no_paths() -> None:
    given = ["--cfg", "job", "--package", "lipschitz"]
    assert VERBS["certify"].positional(given) == VERBS["verify"].positional(given) == given


def test_verbs_that_read_write_nothing(command, capsys, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("import torch\ndef build():\n    return torch.nn.Linear(3, 2)\n")
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "a.pt")
    before = {path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts}
    assert command("plan", "model=own:build", "a.pt", "input_shape=[3]") == 0
    assert command("check", "model=own:build", "a.pt", "input_shape=[3]", "domain=[-1,1]") == 0
    assert "nothing is in the way" in capsys.readouterr().out
    assert command("verify", "a.pt", "model=own:build", "input_shape=[3]") == 1
    assert "a.pt" in message(capsys)
    assert {path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts} == before
