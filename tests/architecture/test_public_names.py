"""What users import."""

import subprocess
import sys

import pytest

import lipguard


def test_every_public_name_exists_and_nothing_else_is_public() -> None:
    assert set(lipguard.__all__) == {"__version__", *lipguard._HOMES}
    for name in lipguard.__all__:
        assert getattr(lipguard, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = lipguard.nonsense  # type: ignore[attr-defined]


def test_importing_the_package_is_cheap() -> None:
    program = "import sys, lipguard; print([m for m in ('torch', 'cvxpy', 'pytorch_lightning') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
