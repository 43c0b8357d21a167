"""The certificate: plain numbers from which a verifier re-proves a bound, as a value, a file and a training state."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lipguard.errors import CertificateError, ConfigError
from lipguard.trusted.certificate.blocks import Partition
from lipguard.trusted.certificate.files import read, write
from lipguard.trusted.layers import Shape
from lipguard.trusted.regions.region import Domain, from_arrays, in_words, to_arrays

FORMAT = 7
_FORMER = 6  # has the square of a bound for every form
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Certificate:
    """A claim about one network, and what is needed to check it.

    Attributes:
        digest: of the network (its graph, weights and biases) that the bound belongs to.
        input_shape: of one sample.
        plan: the partition, without what was predicted of it.
        merge: how tiles are merged.
        multipliers: for every block one array per part; empty where the block stands on its product of norms.
        slacks: for every block the relative clearance that its proof needs: by which the forms of tiles are widened, or
            that a randomised proof counts on.
        forms: for every block that is one LMI the diagonal form that it is claimed to have at its input, shape (1,)
            where all entries are the same, or (entries,); empty for the others.
        bound: the claimed Lipschitz bound.
        proof: the weakest among the blocks' proofs, "randomised", "sparse" or "dense"; "product" where no block needed
            an LMI.
        failure_probability: of all randomised proofs together; 0 where there are none.
        domain: the inputs for which the bound holds; None for all.
        version: of lipguard.
    """

    digest: str
    input_shape: Shape
    plan: Partition
    merge: str
    multipliers: tuple[tuple[Array, ...], ...]
    slacks: tuple[float, ...]
    forms: tuple[Array, ...]
    bound: float
    proof: str
    failure_probability: float = 0.0
    domain: Domain | None = None
    version: str = ""

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to `path` (npz, no pickled code), at once or not at all.

        Raises:
            OSError: the file cannot be written; an older file of that name is left as it was.
        """
        path = Path(path)
        write(path, self._metadata(), self._arrays())
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Certificate:
        """Read what `save` wrote. Nothing is believed until `verify` has checked it.

        Raises:
            CertificateError: the file is missing, damaged or not a certificate.
        """
        return cls._build(*read(Path(path)))

    @classmethod
    def from_checkpoint(cls, checkpoint: str | os.PathLike[str] | Mapping[str, Any]) -> Certificate:
        """The certificate that a `LipschitzMonitor` left in a Lightning checkpoint.

        Args:
            checkpoint: its path, or what was loaded from it. A path is read with `weights_only=True`.

        Raises:
            CertificateError: it cannot be read, or holds no certificate, or one that holds on a domain only.
        """
        where = "The checkpoint" if isinstance(checkpoint, Mapping) else str(checkpoint)
        if not isinstance(checkpoint, Mapping):
            try:
                checkpoint = torch.load(checkpoint, map_location="cpu", weights_only=True)
            except Exception as error:  # whatever torch's reader meets in a file that is none of its own
                raise CertificateError(f"{where} is not a checkpoint that can be read without executing it.") from error
        callbacks = checkpoint.get("callbacks") if isinstance(checkpoint, Mapping) else None
        for state in (callbacks or {}).values() if isinstance(callbacks, Mapping) else ():
            warm = state.get("warm_start") if isinstance(state, Mapping) else None
            if isinstance(warm, Mapping) and "certificate" in warm:
                found = cls.from_state(warm["certificate"])
                if found.domain is not None:
                    raise CertificateError(
                        f"{where} holds a certificate for {in_words(found.domain)} only, where one for all inputs was "
                        "expected: certify the checkpoint again, without domain=."
                    )
                return found
        raise CertificateError(
            f"{where} holds no certificate: it was not saved by a Trainer with a LipschitzMonitor, or before its first "
            "measurement."
        )

    def to_state(self) -> dict[str, Any]:
        """Plain values for a checkpoint: a string and float64 tensors, which `weights_only=True` loads."""
        return {
            "metadata": self._metadata(),
            "arrays": {k: torch.from_numpy(v.copy()) for k, v in self._arrays().items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Certificate:
        """The inverse of `to_state`.

        Raises:
            CertificateError: the state is not one of a certificate.
        """
        try:
            return cls._build(str(state["metadata"]), {k: v.numpy() for k, v in state["arrays"].items()})
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise CertificateError(f"The state is not one of a certificate: {error!r}.") from error

    def _metadata(self) -> str:
        return json.dumps({
            "format": FORMAT, "digest": self.digest, "input_shape": self.input_shape, "plan": self.plan.to_dict(),
            "merge": self.merge, "slacks": self.slacks,
            "bound": self.bound.hex(), "proof": self.proof,
            "failure_probability": self.failure_probability, "version": self.version,
            "domain": None if self.domain is None else to_arrays(self.domain, self.input_shape)[0],
        })  # fmt: skip

    def _arrays(self) -> dict[str, Array]:
        own = {} if self.domain is None else to_arrays(self.domain, self.input_shape)[1]
        forms = {f"s_{i}": form for i, form in enumerate(self.forms) if len(form)}
        return own | forms | {f"t_{i}_{j}": t for i, parts in enumerate(self.multipliers) for j, t in enumerate(parts)}

    @classmethod
    def _build(cls, metadata: str, arrays: Mapping[str, Array]) -> Certificate:
        try:
            state = json.loads(metadata)
            if state["format"] == _FORMER:
                arrays = dict(arrays) | _former_forms(state, arrays)
            elif state["format"] != FORMAT:
                raise CertificateError(
                    f"Expected certificate format {FORMAT} or {_FORMER}, but got {state['format']!r}. Certify again."
                )
            plan = Partition.from_dict(state["plan"])
            kept = [_multipliers_of(i, arrays) for i in range(len(plan.blocks))]
            shape = tuple(int(n) for n in state["input_shape"])
            placed = {name: array for name, array in arrays.items() if name.startswith("domain_")}
            domain = None if state["domain"] is None else from_arrays(state["domain"], placed, shape)
            none = np.zeros(0)
            forms = tuple(np.array(arrays.get(f"s_{i}", none)) for i in range(len(plan.blocks)))
            known = sum(map(len, kept)) + sum(bool(form.size) for form in forms)
            if known + (0 if domain is None else len(placed)) != len(arrays):
                raise CertificateError("The certificate holds arrays that its plan does not name.")
            if any(t.dtype != np.float64 for t in arrays.values()):
                raise CertificateError("The certificate's multipliers are not numbers of double precision.")
            multipliers = tuple(tuple(np.array(arrays[name]) for name in parts) for parts in kept)
            slacks = tuple(float(slack) for slack in state["slacks"])
            bound = float.fromhex(state["bound"])
            probability = float(state["failure_probability"])
            if not bound >= 0:
                raise CertificateError(f"Expected a non-negative bound, but got {bound}.")
            if not 0 <= probability < 1:
                raise CertificateError(f"Expected a failure probability from 0 to 1, but got {probability}.")
            return cls(
                str(state["digest"]), shape, plan, str(state["merge"]), multipliers, slacks, forms, bound,
                str(state["proof"]), probability, domain, str(state["version"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, ConfigError) as error:
            raise CertificateError(f"The certificate's metadata cannot be read: {error!r}.") from error


def _multipliers_of(block: int, arrays: Mapping[str, Array]) -> list[str]:
    """The names of its parts' arrays, in order; whether there are as many as parts is seen by the verifier."""
    names = (f"t_{block}_{j}" for j in itertools.count())
    return list(itertools.takewhile(lambda name: name in arrays, names))


def _former_forms(state: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The forms of a file of the former format: the square of a bound for every block, 0 without one."""
    if any(name.startswith("s_") for name in arrays):
        raise CertificateError("The certificate holds arrays that its plan does not name.")
    squares = [float.fromhex(rho) for rho in state["rhos"]]
    if len(squares) != len(state["plan"]["blocks"]):
        raise CertificateError("The certificate has not one entry per block of its plan.")
    return {f"s_{i}": np.array([square]) for i, square in enumerate(squares) if square != 0}
