"""`lipguard certify`: the bounds of checkpoints' networks, with their certificates."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, ListConfig

import lipguard
from lipguard.app.building import box, build, dcp_config
from lipguard.app.console.folders import require_writable
from lipguard.app.loading.models import model_of
from lipguard.certifying.report import Report
from lipguard.config import DCPConfig
from lipguard.errors import ConfigError
from lipguard.planning.table import table


def certify(cfg: DictConfig) -> float:
    """Bound the network of `cfg.checkpoint`, or of each in a list, print reports and save the certificates.

    Certificates are saved in the run folder. Several checkpoints are certified side by side, in processes of this
    machine or in `cfg.executor`.

    Returns:
        The certified bound, the smallest of several.

    Raises:
        LipguardError: a checkpoint cannot be read, or its network cannot be bounded.
    """
    folder = require_writable(cfg.paths.output_dir)
    config = dcp_config(cfg.lipschitz)
    if isinstance(cfg.checkpoint, ListConfig):
        if cfg.domain is not None:
            raise ConfigError("A domain is for one checkpoint at a time.")
        return _certify_many(cfg, [str(path) for path in cfg.checkpoint], folder, config)
    domain = box(cfg.domain)
    own = model_of(cfg, cfg.checkpoint)
    report = lipguard.certify(own.model, own.input_shape, config, progress=True, domain=domain)
    print(report)
    print(f"Certificate: {_saved(report, folder / 'certificate.npz')}")
    if report.restricted is not None:
        print(f"Certificate on the domain: {_saved(report.restricted, folder / 'certificate-domain.npz')}")
    return report.bound


def _certify_many(cfg: DictConfig, paths: list[str], folder: Path, config: DCPConfig) -> float:
    found = [model_of(cfg, path) for path in paths]
    if not found:
        raise ConfigError("Expected at least one checkpoint, but checkpoint=[] has none.")
    if len({own.input_shape for own in found}) > 1:
        raise ConfigError("Expected checkpoints of networks with one input shape; certify the others on their own.")
    executor = build(cfg.executor) if cfg.executor else None
    reports = lipguard.certify_many(
        [own.model for own in found], found[0].input_shape, config, progress=True, executor=executor
    )
    rows = [_row(i, path, report, folder) for i, (path, report) in enumerate(zip(paths, reports, strict=True))]
    header = ("checkpoint", "bound", "product bound", "proof", "seconds", "status", "certificate")
    print("\n".join(table(header, rows)))
    return min(report.bound for report in reports)


def _row(number: int, checkpoint: str, report: Report, folder: Path) -> tuple[str, ...]:
    """Save a certificate; returns its row of the table."""
    path = _saved(report, folder / f"certificate-{number}.npz")
    numbers = (f"{report.bound:.6g}", f"{report.product_bound:.6g}")
    return (checkpoint, *numbers, report.proof, f"{report.seconds:.2f}", report.status, path)


def _saved(report: Report, path: Path) -> str:
    """Where the certificate is; a disk that is full costs the file, not the bound."""
    try:
        return str(report.certificate.save(path))
    except OSError as error:
        return f"not saved ({error})"
