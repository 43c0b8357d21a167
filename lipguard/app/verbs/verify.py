"""`lipguard verify`: a certificate, from its own file or from the checkpoint, checked against the network."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

import lipguard
from lipguard.app.building import box
from lipguard.app.loading.models import model_of
from lipguard.errors import CertificateError, ConfigError
from lipguard.trusted.certificate.verify import chance_of
from lipguard.trusted.regions.region import Box, Domain, are_equal, in_words


def verify(cfg: DictConfig) -> float:
    """Check a certificate against the network of `cfg.checkpoint` and print the bound that it proves, and where.

    Without `cfg.certificate` it is the one that the checkpoint carries. One that holds on a box only is accepted with
    that box in `cfg.domain`.

    Returns:
        The verified bound.

    Raises:
        CertificateError: the certificate does not prove its bound for this network, or not on these inputs, or cannot
            be read.
        ConfigError: a file is missing, the checkpoint cannot be read, or a setting makes no sense.
    """
    domain = box(cfg.domain)
    certificate = _certificate(cfg)
    model = model_of(cfg, cfg.checkpoint).model
    own = certificate.domain
    if own is not None and (domain is None or not are_equal(own, domain, certificate.input_shape)):
        raise CertificateError(_needs_domain(own))
    bound = lipguard.verify(
        certificate, model, domain=domain, failure_probability=cfg.failure_probability,
        deterministic=cfg.deterministic, fresh=cfg.fresh,
    )  # fmt: skip
    chance = 0.0 if cfg.deterministic or certificate.proof == "product" else float(chance_of(certificate))
    words = f", except with probability {chance:g}" if chance else ""
    where = "all inputs" if domain is None or own is None else _plain(domain)
    print(f"Verified: on {where} the Lipschitz constant of {cfg.checkpoint} is at most {bound!r}{words}.")
    return bound


def _plain(domain: Box) -> str:
    """The inputs of a box that the command line can name."""
    return f"inputs between {float(domain.low):g} and {float(domain.high):g}"


def _needs_domain(domain: Domain) -> str:
    """Where a bound holds that does not hold everywhere, and how to say that this is meant."""
    if isinstance(domain, Box) and isinstance(domain.low, float) and isinstance(domain.high, float):
        return (
            f"The certificate holds on {_plain(domain)} only. Say domain=[{domain.low!r},{domain.high!r}] if that is "
            "meant."
        )
    return (
        f"The certificate holds on {in_words(domain)} only, which the command cannot name. Use "
        "lipguard.verify(certificate, model, domain=certificate.domain) if that is meant."
    )


def _certificate(cfg: DictConfig) -> lipguard.Certificate:
    if cfg.certificate is None:
        return lipguard.Certificate.from_checkpoint(cfg.checkpoint)
    path = Path(cfg.certificate)
    if not path.is_file():
        raise ConfigError(f"Expected certificate to be a file, but there is none at {path.absolute()}.")
    return lipguard.Certificate.load(path)
