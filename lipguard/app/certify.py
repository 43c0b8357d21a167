"""`lipguard certify`: the bound of a checkpoint's network, with its certificate."""

from __future__ import annotations

from omegaconf import DictConfig

import lipguard
from lipguard.app.building import dcp_config
from lipguard.app.checkpoints import load_classifier
from lipguard.app.folders import require_writable


def certify(cfg: DictConfig) -> float:
    """Bound the network of `cfg.checkpoint`, print the report and save the certificate in the run folder.

    Returns:
        The certified bound.

    Raises:
        LipguardError: the checkpoint cannot be read, or its network cannot be bounded.
    """
    folder = require_writable(cfg.paths.output_dir)
    config = dcp_config(cfg.lipschitz)
    model = load_classifier(cfg.checkpoint)
    report = lipguard.certify(model, input_shape=model.input_shape, config=config, progress=True)
    path = folder / "certificate.npz"
    report.certificate.save(path)
    print(f"{report}\nCertificate: {path}")
    return report.bound
