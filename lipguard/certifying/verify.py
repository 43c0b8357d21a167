"""`verify`: checking a certificate against a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from lipguard.certifying.hints import HINTS
from lipguard.errors import CertificateError, ConfigError, LipguardError, expect
from lipguard.planning.memory import free_memory
from lipguard.planning.orders.elimination import elimination_of
from lipguard.planning.prices.sparse import sparse_bytes
from lipguard.trusted.certificate.certificate import Certificate
from lipguard.trusted.certificate.verify import CHANCE, verify_certificate
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs.order import Elimination
from lipguard.trusted.reading.choice import Key
from lipguard.trusted.reading.trace import trace
from lipguard.trusted.regions.region import Domain


def verify(
    certificate: Certificate, model: nn.Module, *, domain: Domain | None = None, failure_probability: float = CHANCE,
    deterministic: bool = False, fresh: bool = False, output: Key | None = None, input: Key | None = None,
    fixed: Mapping[Key, Any] | None = None,
) -> float:  # fmt: skip
    """Prove a certificate's bound anew for `model`, without any solver.

    Args:
        certificate: of a bound of this model.
        model: the model, with the weights that the certificate belongs to.
        domain: the inputs for which the bound is to hold: None for all. A certificate that holds on a domain only is
            accepted for the same domain, entry by entry; one that holds everywhere for any.
        failure_probability: the largest that is accepted of all randomised proofs of the certificate together, from 0
            to 1: what they really use is added up, whatever the certificate says of it.
        deterministic: prove by Cholesky factorisation what the certificate proves by a randomised test.
        fresh: draw the vectors of a randomised test from the operating system, in place of a hash of the claim; then
            a second verification is independent of the first.
        output, input, fixed: which function of the module, as for `certify`: of another one it is no certificate.

    Returns:
        The bound.

    Raises:
        CertificateError: the certificate does not prove its bound for these weights, or not on these inputs, or by a
            proof that may fail more often; the message says which check failed.
        ConfigError: `failure_probability` is no probability, `domain` no domain, or the model has no such input or
            output.
    """
    return verify_network(
        certificate, read_for(certificate, model, output, input, fixed), domain=domain,
        failure_probability=failure_probability, deterministic=deterministic, fresh=fresh,
    )  # fmt: skip


def verify_network(
    certificate: Certificate, network: Network, *, domain: Domain | None = None, failure_probability: float = CHANCE,
    deterministic: bool = False, fresh: bool = False,
) -> float:  # fmt: skip
    """`verify` of a network that is traced already.

    Raises:
        CertificateError, ConfigError: as `verify`.
    """
    hints = dataclasses.replace(HINTS, order=_order_within_memory) if deterministic else HINTS
    return verify_certificate(
        certificate, network, hints, domain=domain, failure_probability=failure_probability,
        deterministic=deterministic, fresh=fresh,
    )  # fmt: skip


def read_for(
    certificate: Certificate, model: nn.Module, output: Key | None = None, input: Key | None = None,
    fixed: Mapping[Key, Any] | None = None,
) -> Network:  # fmt: skip
    """The network of a model, for inputs of the certificate's shape.

    Raises:
        CertificateError: it cannot be read for these.
        ConfigError: the certificate is none, or the model has no such input or output.
    """
    expect("certificate", certificate, Certificate, "a Certificate, such as a report's `certificate`")
    try:
        return trace(model, certificate.input_shape, output=output, input=input, fixed=fixed)
    except ConfigError:
        raise
    except LipguardError as error:
        raise CertificateError(
            f"The model cannot be read for inputs of {certificate.input_shape}, as the certificate has it: {error}"
        ) from error


def _order_within_memory(part: Network, deadline: float) -> Elimination:
    """The order of a deterministic proof that there is memory for."""
    needed, free = sparse_bytes(part), free_memory()
    if needed > free:
        raise CertificateError(
            f"A deterministic proof takes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. Verify the "
            "certificate as it is, on a larger machine, or certify anew with failure_probability=0 and max_memory."
        )
    return elimination_of(part, deadline)
