"""Certificates as values and files, and the lies that the verifier must refuse."""

import dataclasses
import json
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lipguard
from lipguard import Certificate, DCPConfig
from lipguard.errors import CertificateError, ConfigError
from lipguard.proposing.feasible.schur import form_norm
from lipguard.trusted.certificate import verify as verify_module
from lipguard.trusted.certificate.verify import chance_of, share_of_probability
from lipguard.trusted.lmi.freed import FreedNetwork
from lipguard.trusted.reading.trace import trace

TILES = DCPConfig(partition="tiles", partition_factors=(2, 2), merge="form")


def dense_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()


def convolutional_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 3)).double().eval()


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return lipguard.certify(dense_model(), (5,)).certificate


@pytest.fixture(scope="module")
def tiled() -> Certificate:
    certificate = lipguard.certify(convolutional_model(), (1, 10, 10), TILES).certificate
    assert certificate.proof == "dense"
    return certificate


def with_multipliers(certificate: Certificate, t: np.ndarray) -> Certificate:
    return dataclasses.replace(certificate, multipliers=((t,),))


def test_files_and_checkpoints_keep_a_certificate(certificate: Certificate, tiled: Certificate, tmp_path: Path) -> None:
    for original, model in ((certificate, dense_model()), (tiled, convolutional_model())):
        loaded = Certificate.load(original.save(tmp_path / "certificate.npz"))
        assert lipguard.verify(loaded, model) == original.bound
        torch.save(original.to_state(), tmp_path / "state.pt")
        restored = Certificate.from_state(torch.load(tmp_path / "state.pt", weights_only=True))
        assert lipguard.verify(restored, model) == original.bound
        assert restored.plan == original.plan


def test_a_bound_below_the_optimum_by_a_millionth_is_refused(certificate: Certificate) -> None:
    model = dense_model()
    freed = FreedNetwork.assemble(trace(model, (5,)))
    best = form_norm(freed, certificate.multipliers[0][0]) ** 0.5
    claim = dataclasses.replace(certificate, bound=best * (1 - 1e-6), slacks=(0.0,))
    with pytest.raises(CertificateError, match=r"claims|positive semidefinite"):
        lipguard.verify(claim, model)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t * np.nan, "finite and non-negative"),
        (lambda t: np.where(np.arange(len(t)) == 3, np.inf, t), "finite and non-negative"),
        (lambda t: -t, "finite and non-negative"),
        (lambda t: t[:-1], "Expected 10 multipliers"),
        (lambda t: t[None], "Expected 10 multipliers"),
        (lambda t: t * 0, "positive semidefinite"),
        (lambda t: t[::-1].copy() * 1e-3, "positive semidefinite"),
    ],
)
def test_bad_multipliers_are_refused(certificate: Certificate, spoil: object, message: str) -> None:
    bad = with_multipliers(certificate, spoil(certificate.multipliers[0][0]))  # type: ignore[operator]
    with pytest.raises(CertificateError, match=message):
        lipguard.verify(bad, dense_model())


def test_other_weights_are_refused_down_to_one_bit(certificate: Certificate) -> None:
    model = dense_model()
    with torch.no_grad():
        weight = model[2].weight.view(torch.int64)
        weight[1, 1] ^= 1
    with pytest.raises(CertificateError, match="digests differ"):
        lipguard.verify(certificate, model)


def test_a_forged_digest_does_not_carry_a_bound_over_to_larger_weights(certificate: Certificate) -> None:
    model = dense_model()
    with torch.no_grad():
        model[0].weight *= 1.001
    forged = dataclasses.replace(certificate, digest=trace(model, (5,)).digest)
    with pytest.raises(CertificateError, match=r"claims|positive semidefinite"):
        lipguard.verify(forged, model)


@pytest.mark.parametrize("field", ["bound", "slacks", "merge", "proof", "failure_probability", "input_shape"])
def test_tampered_fields_are_refused(tiled: Certificate, field: str) -> None:
    lies = {
        "bound": tiled.bound * 0.999, "slacks": (-1.0,), "merge": "average", "proof": "belief",
        "failure_probability": 0.5, "input_shape": (1, 9, 4),
    }  # fmt: skip
    with pytest.raises(CertificateError):
        lipguard.verify(dataclasses.replace(tiled, **{field: lies[field]}), convolutional_model())


@pytest.mark.parametrize("change", [{"tile": (9, 9)}, {"tile": None}, {"start": 1}, {"stop": 2}, {"kind": "magic"}])
def test_tampered_plans_are_refused(tiled: Certificate, change: dict[str, object]) -> None:
    block = dataclasses.replace(tiled.plan.blocks[0], **change)  # type: ignore[arg-type]
    plan = dataclasses.replace(tiled.plan, blocks=(block,))
    with pytest.raises(CertificateError):
        lipguard.verify(dataclasses.replace(tiled, plan=plan), convolutional_model())


def test_the_multipliers_of_one_tile_shape_do_not_serve_another_merge_bound(tiled: Certificate) -> None:
    """A looser merge may not pass under a tighter one's bound."""
    with pytest.raises(CertificateError, match="claims"):
        lipguard.verify(dataclasses.replace(tiled, merge="sum"), convolutional_model())


def test_damaged_files_are_refused_with_one_error(certificate: Certificate, tmp_path: Path) -> None:
    path = certificate.save(tmp_path / "certificate.npz")
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:-30], b"PK\x03\x04 not a zip", bytes(reversed(whole))):
        path.write_bytes(content)
        with pytest.raises(CertificateError):
            Certificate.load(path)
    with pytest.raises(CertificateError):
        Certificate.load(tmp_path / "missing.npz")
    np.savez(path, metadata=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CertificateError):
        Certificate.load(path)


@pytest.mark.parametrize(
    "change",
    [{"format": 99}, {"bound": "nan"}, {"bound": "-0x1p0"}, {"plan": {}}, {"slacks": "x"}, {"plan": None}],
)
def test_metadata_that_makes_no_sense_is_refused(certificate: Certificate, change: dict[str, object]) -> None:
    state = certificate.to_state()
    state["metadata"] = json.dumps(json.loads(state["metadata"]) | change)
    with pytest.raises(CertificateError):
        Certificate.from_state(state)


def test_arrays_that_the_plan_does_not_name_are_refused(certificate: Certificate) -> None:
    state = certificate.to_state()
    state["arrays"]["t_7_0"] = torch.zeros(3)
    with pytest.raises(CertificateError, match="does not name"):
        Certificate.from_state(state)


def test_saving_is_all_or_nothing(certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = certificate.save(tmp_path / "certificate.npz")
    before = path.read_bytes()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space left"):
        certificate.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["certificate.npz"]


def test_a_randomised_certificate_is_proved_again_by_chance_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    model = convolutional_model()
    report = lipguard.certify(model, (1, 10, 10), DCPConfig(proof="randomised"))
    certificate = report.certificate
    assert certificate.proof == "randomised"
    entropy = []
    own = verify_module.os.urandom
    monkeypatch.setattr(verify_module.os, "urandom", lambda n: entropy.append(own(n)) or entropy[-1])
    assert lipguard.verify(certificate, model) == report.bound
    assert not entropy
    for _ in range(3):
        assert lipguard.verify(certificate, model, fresh=True) == report.bound
    assert len(set(entropy)) == 3
    assert lipguard.verify(certificate, model, deterministic=True) == report.bound
    t = certificate.multipliers[0][0]
    wrong = dataclasses.replace(
        certificate, multipliers=((t,),), forms=(certificate.forms[0] * 0.9,), bound=report.bound * 0.95
    )
    for how in ({}, {"fresh": True}, {"deterministic": True}):
        with pytest.raises(CertificateError, match="positive semidefinite"):
            lipguard.verify(wrong, model, **how)
    monkeypatch.setattr("lipguard.certifying.verify.free_memory", lambda: 10.0)
    with pytest.raises(CertificateError, match=r"deterministic proof takes .* GB"):
        lipguard.verify(certificate, model, deterministic=True)
    assert lipguard.verify(certificate, model) == report.bound


def randomised(probability: float = 1e-12) -> tuple[Certificate, nn.Module]:
    model = convolutional_model()
    config = DCPConfig(proof="randomised", failure_probability=probability)
    return lipguard.certify(model, (1, 10, 10), config).certificate, model


@pytest.mark.parametrize("label", ["randomised", "product"])
def test_a_verifier_has_a_largest_chance_and_believes_no_label(label: str) -> None:
    certificate, model = randomised(1e-6)
    certificate = dataclasses.replace(certificate, proof=label, bound=100 * certificate.bound)
    for limit in (0.0, 1e-9, 0.999e-6):
        with pytest.raises(CertificateError, match=r"probability of up to 1e-06, and at most .* is accepted"):
            lipguard.verify(certificate, model, failure_probability=limit)
    with pytest.raises(CertificateError, match=r"at most 1e-09 is accepted\. Verify with deterministic=True, or with"):
        lipguard.verify(certificate, model)
    assert lipguard.verify(certificate, model, failure_probability=1e-6) == certificate.bound
    assert lipguard.verify(certificate, model, deterministic=True, failure_probability=0.0) == certificate.bound


def test_labels_say_what_the_proofs_are(certificate: Certificate) -> None:
    own, model = randomised()
    for lie in ({"proof": "dense"}, {"proof": "sparse"}, {"proof": "product"}, {"failure_probability": 0.0}):
        with pytest.raises(CertificateError, match=r"names the (proof|failure probability)"):
            lipguard.verify(dataclasses.replace(own, **lie), model)  # type: ignore[arg-type]
    for chance in (math.nan, math.inf, -math.inf, -1e-12, 1.0, 1e-12):  # of a proof that does not fail
        with pytest.raises(CertificateError, match="names the failure probability"):
            lipguard.verify(dataclasses.replace(certificate, failure_probability=chance), dense_model())
        if chance != 1e-12:
            with pytest.raises(CertificateError, match="names the failure probability"):
                lipguard.verify(dataclasses.replace(own, failure_probability=chance), model)
    with pytest.raises(CertificateError, match="names the proof 'product'"):
        lipguard.verify(dataclasses.replace(certificate, proof="product"), dense_model())
    product = lipguard.certify(dense_model(), (5,)).product_bound
    for bound in (product, 2 * product):
        claim = dataclasses.replace(certificate, proof="product", bound=bound)
        assert lipguard.verify(claim, dense_model()) == bound


@pytest.mark.parametrize("limit", [-1e-9, 1.0, math.nan, math.inf, "1e-9", True])
def test_limits_that_make_no_sense(certificate: Certificate, limit: float) -> None:
    with pytest.raises(ConfigError, match="failure_probability to be at least 0 and below 1"):
        lipguard.verify(certificate, dense_model(), failure_probability=limit)


def test_the_chances_of_all_blocks_are_added_up() -> None:
    whole, _ = randomised()
    block = whole.plan.blocks[0]
    for count in (1, 2, 3, 7):
        blocks = (block,) * count + (dataclasses.replace(block, proof="dense"), block)
        several = dataclasses.replace(
            whole, plan=dataclasses.replace(whole.plan, blocks=blocks), failure_probability=1e-9,
            multipliers=(whole.multipliers[0],) * (count + 1) + ((),),
        )  # fmt: skip
        share = share_of_probability(several.plan, 1e-9)
        assert chance_of(several) == count * Fraction(share)
        assert Fraction(1e-9) * count / (count + 1) * (1 - Fraction(1, 10**12)) <= chance_of(several)
        assert (count + 1) * Fraction(share) <= Fraction(1e-9)


@pytest.mark.parametrize("change", [{"failure_probability": v} for v in (math.nan, math.inf, -0.5, 1.0)])
def test_files_with_impossible_chances_are_refused(certificate: Certificate, change: dict[str, float]) -> None:
    state = certificate.to_state()
    state["metadata"] = json.dumps(json.loads(state["metadata"]) | change)
    with pytest.raises(CertificateError, match="failure probability from 0 to 1"):
        Certificate.from_state(state)


def test_verification_needs_no_solver(certificate: Certificate, tmp_path: Path) -> None:
    path = certificate.save(tmp_path / "certificate.npz")
    program = (
        "import sys\n"
        "for name in ('cvxpy', 'scs', 'clarabel', 'pytorch_lightning'): sys.modules[name] = None\n"
        "import torch, lipguard\n"
        f"{_MODEL_SOURCE}\n"
        f"print(lipguard.verify(lipguard.Certificate.load({str(path)!r}), model()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == certificate.bound


_MODEL_SOURCE = (
    "from torch import nn\n"
    "def model():\n"
    "    torch.manual_seed(0)\n"
    "    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()"
)
