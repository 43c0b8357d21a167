"""`lipguard verify`: a saved certificate checked against a checkpoint's network."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

import lipguard
from lipguard.app.checkpoints import load_classifier
from lipguard.errors import ConfigError


def verify(cfg: DictConfig) -> float:
    """Check `cfg.certificate` against the network of `cfg.checkpoint` and print the bound that it proves.

    Returns:
        The verified bound.

    Raises:
        CertificateError: the certificate does not prove its bound for this network, or cannot be read.
        ConfigError: a file is missing, or the checkpoint cannot be read.
    """
    path = Path(cfg.certificate)
    if not path.is_file():
        raise ConfigError(f"Expected certificate to be a file, but there is none at {path.absolute()}.")
    model = load_classifier(cfg.checkpoint)
    bound = lipguard.verify(lipguard.Certificate.load(path), model)
    print(f"Verified: the Lipschitz constant of {cfg.checkpoint} is at most {bound!r}.")
    return bound
