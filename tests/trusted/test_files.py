"""Certificate files from strangers: each is refused with a `CertificateError`, or proves what it claims."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import pickle
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lipguard
from lipguard import Certificate, DCPConfig
from lipguard.errors import CertificateError


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2)).double().eval()


@functools.cache
def whole() -> bytes:
    return saved(DCPConfig())


@functools.cache
def in_blocks() -> bytes:
    return saved(DCPConfig(partition="cuts", max_block_size=12))


def saved(config: DCPConfig) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return lipguard.certify(model(), (4,), config).certificate.save(Path(folder, "c.npz")).read_bytes()


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def packed(contents: dict[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the same name twice
        for name, content in contents.items() if isinstance(contents, dict) else contents:
            archive.writestr(name, content)
    return stream.getvalue()


def npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def with_metadata(change: Callable[[dict[str, Any]], Any], data: bytes | None = None) -> bytes:
    contents = members(data or whole())
    state = json.loads(np.load(io.BytesIO(contents["metadata.npy"])).tobytes())
    text = json.dumps(change(state) or state)
    return packed(contents | {"metadata.npy": npy(np.frombuffer(text.encode(), dtype=np.uint8))})


def verified(data: bytes, folder: Path) -> float:
    path = folder / "certificate.npz"
    path.write_bytes(data)
    return lipguard.verify(Certificate.load(path), model())


class _Runs:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def huge_header(entries: int, dtype: str = "<f8") -> bytes:
    """An array that claims to have many entries, and has one."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": (entries,)})
    return stream.getvalue() + bytes(8)


def former(change: Callable[[list[str]], list[str]], data: bytes | None = None) -> bytes:
    """The certificate in the format before this one, which had a number for every block in place of a form."""
    contents = members(data or whole())
    names = sorted(name for name in contents if name.startswith("s_"))
    squares = {int(name[2:-4]): float(np.load(io.BytesIO(contents.pop(name)))[0]) for name in names}

    def metadata(state: dict[str, Any]) -> dict[str, Any]:
        rhos = [squares.get(i, 0.0).hex() for i in range(len(state["plan"]["blocks"]))]
        return state | {"format": 6, "rhos": change(rhos)}

    return with_metadata(metadata, packed(contents))


def test_the_format_before_is_read(tmp_path: Path) -> None:
    for data in (whole(), in_blocks(), saved(DCPConfig(partition="tiles"))):
        assert verified(former(lambda rhos: rhos, data), tmp_path) == verified(data, tmp_path)


def test_files_that_hold_what_was_predicted_are_read(tmp_path: Path) -> None:
    """As those were written before: with rows, ratio and seconds of every block, settings and what else there was."""
    predicted = {"layers": ["0", "2"], "variables": [12], "tiles": 1, "ratio": 0.5, "seconds": 1.0, "reason": "cheap"}

    def written(state: dict[str, Any]) -> None:
        for block in state["plan"]["blocks"]:
            assert not set(block) & set(predicted)
            block |= predicted | {"multipliers": "neuron"}
        state["plan"] |= {"settings": {"solver": "power"}, "considered": ["another"]}

    assert verified(with_metadata(written), tmp_path) == verified(whole(), tmp_path)


def scaled(number: str, factor: float) -> str:
    return (float.fromhex(number) * factor).hex()


def malicious(folder: Path) -> dict[str, bytes]:
    good = whole()
    parts = members(good)
    t, s = parts["t_0_0.npy"], np.load(io.BytesIO(parts["s_0.npy"]))
    flipped = bytearray(good)
    flipped[good.index(b"\x93NUMPY") + 200] ^= 1
    trap = pickle.dumps(_Runs(str(folder / "executed")))
    deep = b"[" * 200_000 + b"]" * 200_000
    return {
        "nothing": b"",
        "a truncated file": good[: len(good) // 2],
        "a file without its directory": good[:-40],
        "bytes in another order": good[::-1],
        "a pickle": trap,
        "a pickled array": packed(
            parts | {"t_0_0.npy": npy(np.array([_Runs(str(folder / "executed"))]), allow_pickle=True)}
        ),
        "a pickle inside": packed(parts | {"t_0_0.npy": trap}),
        "a compressed bomb": packed(parts | {"t_0_0.npy": npy(np.zeros(10**6))}, zipfile.ZIP_DEFLATED),
        "a header that claims a terabyte": packed(parts | {"t_0_0.npy": huge_header(10**12)}),
        "a header that claims more than there can be": packed(parts | {"t_0_0.npy": huge_header(2**62)}),
        "a header of a negative size": packed(parts | {"t_0_0.npy": huge_header(-1)}),
        "a path that escapes": packed(parts | {"../escaped.npy": t}),
        "an absolute path": packed(parts | {"/tmp/escaped.npy": t}),
        "the same name twice": packed([*parts.items(), ("t_0_0.npy", t)]),
        "no metadata": packed({"t_0_0.npy": t}),
        "no arrays": packed({"metadata.npy": parts["metadata.npy"]}),
        "an array too many": packed(parts | {"t_0_1.npy": t}),
        "arrays in each other's place": packed(parts | {"t_0_0.npy": parts["metadata.npy"], "metadata.npy": t}),
        "another byte order": packed(parts | {"t_0_0.npy": npy(np.ones(8, dtype=">f8"))}),
        "single precision": packed(parts | {"t_0_0.npy": npy(np.ones(8, dtype=np.float32))}),
        "complex numbers": packed(parts | {"t_0_0.npy": npy(np.ones(8, dtype=complex))}),
        "a matrix": packed(parts | {"t_0_0.npy": npy(np.ones((8, 1)))}),
        "too few multipliers": packed(parts | {"t_0_0.npy": npy(np.ones(7))}),
        "too many": packed(parts | {"t_0_0.npy": npy(np.ones(9))}),
        "an oversized array": packed(parts | {"t_0_0.npy": npy(np.ones(10**6))}),
        "negative ones": packed(parts | {"t_0_0.npy": npy(-np.ones(8))}),
        "one that is no number": packed(parts | {"t_0_0.npy": npy(np.full(8, np.nan))}),
        "an infinite one": packed(parts | {"t_0_0.npy": npy(np.full(8, np.inf))}),
        "zeros": packed(parts | {"t_0_0.npy": npy(np.zeros(8))}),
        "one bit flipped": bytes(flipped),
        "metadata that nests deeply": packed(parts | {"metadata.npy": npy(np.frombuffer(deep, dtype=np.uint8))}),
        "metadata of no text": packed(parts | {"metadata.npy": npy(np.full(99, 0xFF, dtype=np.uint8))}),
        "metadata that is a list": with_metadata(lambda state: [state]),
        "another format": with_metadata(lambda state: state | {"format": 3}),
        "another digest": with_metadata(lambda state: state | {"digest": "0" * 64}),
        "another shape": with_metadata(lambda state: state | {"input_shape": [2, 2]}),
        "a shape beyond all memory": with_metadata(lambda state: state | {"input_shape": [10**30]}),
        "a large shape": with_metadata(lambda state: state | {"input_shape": [10**6, 10**6]}),
        "a shape that is no number": with_metadata(lambda state: state | {"input_shape": [float("inf")]}),
        "a smaller bound": with_metadata(lambda state: state | {"bound": scaled(state["bound"], 0.999999)}),
        "a bound that is no number": with_metadata(lambda state: state | {"bound": "nan"}),
        "a smaller form": packed(parts | {"s_0.npy": npy(0.99 * s)}),
        "a negative form": packed(parts | {"s_0.npy": npy(-s)}),
        "a form of zeros": packed(parts | {"s_0.npy": npy(np.zeros(3))}),
        "an infinite form": packed(parts | {"s_0.npy": npy(np.array([np.inf]))}),
        "a form that is no number": packed(parts | {"s_0.npy": npy(np.array([np.nan]))}),
        "a form of too few entries": packed(parts | {"s_0.npy": npy(np.full(3, s[0]))}),
        "a form of too many entries": packed(parts | {"s_0.npy": npy(np.full(5, s[0]))}),
        "one entry of a form smaller": packed(parts | {"s_0.npy": npy(s * np.array([1.0, 0.9, 1.0, 1.0]))}),
        "no form": packed({name: data for name, data in parts.items() if name != "s_0.npy"}),
        "a form of a block that is not there": packed(parts | {"s_1.npy": npy(s)}),
        "the former format with a smaller square": former(lambda rhos: [scaled(rhos[0], 0.99)]),
        "the former format with a negative square": former(lambda rhos: [(-1.0).hex()]),
        "the former format with an infinite square": former(lambda rhos: ["inf"]),
        "the former format with a square too many": former(lambda rhos: [(1.0).hex()] * 2),
        "the former format without squares": former(lambda rhos: []),
        "the former format with a form": packed(members(former(lambda rhos: rhos)) | {"s_0.npy": npy(s)}),
        "another proof": with_metadata(lambda state: state | {"proof": "sparse"}),
        "a proof that does not exist": with_metadata(lambda state: state | {"proof": "trust me"}),
        "a failure probability": with_metadata(lambda state: state | {"failure_probability": 0.5}),
        "a probability that is no number": with_metadata(lambda state: state | {"failure_probability": float("nan")}),
        "another merge": with_metadata(lambda state: state | {"merge": "hope"}),
        "another architecture": with_metadata(lambda s: s["plan"].update(architecture="0" * 64)),
        "a plan of no blocks": with_metadata(lambda s: s["plan"].update(blocks=[])),
        "a block twice": with_metadata(lambda s: s["plan"].update(blocks=s["plan"]["blocks"] * 2)),
        "a block that ends elsewhere": with_metadata(lambda s: s["plan"]["blocks"][0].update(stop=2)),
        "a block that begins elsewhere": with_metadata(lambda s: s["plan"]["blocks"][0].update(start=-1)),
        "a block far away": with_metadata(lambda s: s["plan"]["blocks"][0].update(start=10**9, stop=10**9 + 1)),
        "a block of another kind": with_metadata(lambda s: s["plan"]["blocks"][0].update(kind="tiles", tile=[1, 1])),
        "a block of norms": with_metadata(lambda s: s["plan"]["blocks"][0].update(kind="norm", variables=[])),
        "cuts where there are none": with_metadata(lambda s: s["plan"]["blocks"][0].update(cuts=[99])),
        "tiles of vectors": with_metadata(lambda s: s["plan"]["blocks"][0].update(grids=[[2, 2]], proof="sparse")),
        "a cut more": with_metadata(lambda s: s["plan"]["blocks"][0].update(cuts=[2])),
    }


def test_every_malicious_file_is_refused(tmp_path: Path) -> None:
    assert verified(whole(), tmp_path) > 0
    assert verified(with_metadata(lambda state: None), tmp_path) > 0  # packed anew, it is as good
    for name, data in malicious(tmp_path).items():
        with pytest.raises(CertificateError, match=r"\w{3}"):
            pytest.fail(f"{name}: verified {verified(data, tmp_path)}")
    assert not (tmp_path / "executed").exists()
    assert sorted(os.listdir(tmp_path)) == ["certificate.npz"]
    with pytest.raises(CertificateError, match="not a readable"):
        Certificate.load(tmp_path / "missing.npz")
    with pytest.raises(CertificateError, match="not a readable"):
        Certificate.load(tmp_path)


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Bytes changed, cut out, repeated or put elsewhere."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 5, 20])):
        i = draw.randrange(len(changed))
        j = min(i + draw.choice([1, 2, 8, 64]), len(changed))
        kind = draw.randrange(5)
        if kind == 0:
            changed[i] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[i] = draw.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif kind == 2 and len(changed) > 100:
            del changed[i:j]
        elif kind == 3:
            changed[i:i] = changed[draw.randrange(len(changed)) :][: j - i]
        else:
            changed[i:j] = bytes(draw.randrange(256) for _ in range(j - i))
    return bytes(changed)


def mutated_members(data: bytes, draw: random.Random) -> bytes:
    """The same inside of a member, whose checksum is right again; numbers of the metadata are changed as such."""
    contents = members(data)
    name = draw.choice(sorted(contents))
    if name == "metadata.npy" and draw.random() < 0.7:
        return with_metadata(lambda state: _mutated_value(state, draw), data)
    return packed(contents | {name: mutated(contents[name], draw)})


ODD = (None, True, 0, -1, 1, 2, 3, 10**30, 1e308, float("nan"), float("inf"), "", "x", "0x1p+0", [], [[]], {}, [1, 2])


def _mutated_value(state: Any, draw: random.Random) -> Any:
    """One value somewhere in nested lists and dictionaries replaced, dropped or doubled."""
    if draw.random() < 0.15 or not isinstance(state, (dict, list)) or not state:
        return draw.choice(ODD)
    if isinstance(state, dict):
        key = draw.choice(sorted(state))
        if draw.random() < 0.1:
            return {k: v for k, v in state.items() if k != key}
        return state | {key: _mutated_value(state[key], draw)}
    i = draw.randrange(len(state))
    if draw.random() < 0.2:
        return state[:i] + state[i : i + 1] * draw.choice([0, 2]) + state[i + 1 :]
    return [*state[:i], _mutated_value(state[i], draw), *state[i + 1 :]]


def fuzz(count: int, folder: Path) -> tuple[int, int]:
    """(refused, accepted) of so many mutated files."""
    draw = random.Random(0)
    bounds = {data: verified(data, folder) for data in (whole(), in_blocks())}
    lower = lipguard.certify(model(), (4,)).lower_bound
    refused = accepted = 0
    for k in range(count):
        data = draw.choice(list(bounds))
        try:
            bound = verified(mutated(data, draw) if k % 2 else mutated_members(data, draw), folder)
        except CertificateError:
            refused += 1
            continue
        # What is accepted was changed where nothing depends on it, or claims more than it has to.
        assert lower <= bound
        accepted += 1
    return refused, accepted


def test_mutated_files_are_refused_or_true(tmp_path: Path) -> None:
    refused, accepted = fuzz(1500, tmp_path)
    assert refused > 800
    assert accepted > 20


@pytest.mark.slow
def test_many_mutated_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused, accepted = fuzz(100_000, tmp_path)
    with capsys.disabled():
        print(f"\n{refused + accepted} mutated files: {refused} refused, {accepted} accepted and true")


def test_states_of_checkpoints_are_read_as_carefully(tmp_path: Path) -> None:
    (tmp_path / "c.npz").write_bytes(whole())
    certificate = Certificate.load(tmp_path / "c.npz")
    state = certificate.to_state()
    t = state["arrays"]["t_0_0"]
    for wrong in (
        t.float(),
        t.to(torch.complex128),
        t.to_sparse(),
        t.clone().requires_grad_(),
        t.numpy(),
        None,
        3,
        "t",
    ):
        with pytest.raises(CertificateError):
            lipguard.verify(Certificate.from_state({**state, "arrays": {"t_0_0": wrong}}), model())
    for wrong in ({}, {"metadata": 3, "arrays": {}}, {"metadata": state["metadata"]}, [], None):
        with pytest.raises(CertificateError):
            Certificate.from_state(wrong)  # type: ignore[arg-type]
    assert lipguard.verify(Certificate.from_state(state), model()) == certificate.bound


def test_certificates_in_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "c.npz").write_bytes(whole())
    certificate = Certificate.load(tmp_path / "c.npz")
    warm = {"certificate": certificate.to_state(), "solver": {}, "points": None}
    checkpoint = {"callbacks": {"Other": {"a": 1}, "LipschitzMonitor": {"warm_start": warm}}, "state_dict": {}}
    torch.save(checkpoint, tmp_path / "a.ckpt")
    for source in (tmp_path / "a.ckpt", checkpoint):
        assert lipguard.verify(Certificate.from_checkpoint(source), model()) == certificate.bound
    for wrong in ({}, {"callbacks": None}, {"callbacks": {"LipschitzMonitor": {"warm_start": None}}}):
        with pytest.raises(CertificateError, match="holds no certificate"):
            Certificate.from_checkpoint(wrong)
    placed = dataclasses.replace(certificate, domain=lipguard.Box(0.0, 1.0)).to_state()
    with pytest.raises(CertificateError, match=r"for Box\(0, 1\) only, where one for all inputs was expected"):
        Certificate.from_checkpoint({"callbacks": {"LipschitzMonitor": {"warm_start": {"certificate": placed}}}})
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(_Runs(str(tmp_path / "executed"))))
    for path in (tmp_path / "b.ckpt", tmp_path / "missing.ckpt", tmp_path / "c.npz"):
        with pytest.raises(CertificateError, match=r"not a checkpoint|holds no"):
            Certificate.from_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_a_full_disk_costs_the_file_and_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.npz").write_bytes(whole())
    certificate = Certificate.load(tmp_path / "c.npz")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        dataclasses.replace(certificate, bound=1e9).save(tmp_path / "c.npz")
    assert os.listdir(tmp_path) == ["c.npz"]
    assert (tmp_path / "c.npz").read_bytes() == whole()
