"""`lipguard verify`: a certificate, from its own file or from the checkpoint, checked against the network."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

import lipguard
from lipguard.app.checkpoints import load_classifier
from lipguard.certificate.domain import Ball, Domain
from lipguard.errors import ConfigError


def verify(cfg: DictConfig) -> float:
    """Check a certificate against the network of `cfg.checkpoint` and print the bound that it proves.

    Without `cfg.certificate` it is the one that the checkpoint carries.

    Returns:
        The verified bound.

    Raises:
        CertificateError: the certificate does not prove its bound for this network, or cannot be read.
        ConfigError: a file is missing, or the checkpoint cannot be read.
    """
    certificate = _certificate(cfg)
    model = load_classifier(cfg.checkpoint)
    bound = lipguard.verify(certificate, model, deterministic=cfg.deterministic, fresh=cfg.fresh)
    chance = certificate.failure_probability if certificate.proof == "randomised" and not cfg.deterministic else 0.0
    words = f", except with probability {chance:g}" if chance else ""
    where = "" if certificate.domain is None else f" on {_in_words(certificate.domain)}"
    print(f"Verified: the Lipschitz constant of {cfg.checkpoint}{where} is at most {bound!r}{words}.")
    return bound


def _in_words(domain: Domain) -> str:
    """Where a bound holds that does not hold everywhere."""
    if isinstance(domain, Ball):
        return f"the ball of radius {domain.size:g} in the certificate"
    plain = isinstance(domain.low, float) and isinstance(domain.high, float)
    return f"inputs between {domain.low:g} and {domain.high:g}" if plain else "the box in the certificate"


def _certificate(cfg: DictConfig) -> lipguard.Certificate:
    if cfg.certificate is None:
        return lipguard.Certificate.from_checkpoint(cfg.checkpoint)
    path = Path(cfg.certificate)
    if not path.is_file():
        raise ConfigError(f"Expected certificate to be a file, but there is none at {path.absolute()}.")
    return lipguard.Certificate.load(path)
