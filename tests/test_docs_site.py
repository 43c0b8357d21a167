"""The documentation builds as a site, with warnings as errors."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SITE = all(importlib.util.find_spec(name) for name in ("sphinx", "myst_parser", "furo"))


@pytest.mark.slow
@pytest.mark.skipif(not SITE, reason='sphinx, myst-parser and furo are not installed: pip install "lipguard[docs]"')
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    docs = Path(__file__).parent.parent / "docs"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", str(docs), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    assert "CertifiedAccuracy" in (tmp_path / "api.html").read_text()
