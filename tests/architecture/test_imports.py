"""Data flows one way: a stage imports only stages to its left. Read from the source."""

import sys
from pathlib import Path

import pytest
from benchmarks.reporting.architecture import tables
from benchmarks.reporting.imports import ROOT, SOURCES, imported, stage
from benchmarks.reporting.markdown import filled

import lipguard

# A stage imports those above it.
ORDER = [{"errors"}, {"trusted"}, {"config"}, {"planning", "proposing"}, {"certifying"}, {"choosing"}, {"figures"}]
OUTER = {"metrics", "callbacks", "lightning", "app"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_stage_imports_only_stages_to_its_left(path: Path) -> None:
    own = stage(path)
    if own in OUTER or own == "__init__":
        return
    rank = next((k for k, names in enumerate(ORDER) if own in names), None)
    assert rank is not None, f"{own} has no place in the order of stages"
    above = {own}.union(*ORDER[:rank])
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "lipguard" and len(parts) > 1:
            assert stage(ROOT.joinpath(*parts[1:])) in above, f"{path.relative_to(ROOT)} imports {name}"


def test_what_is_trusted_rests_on_three_libraries_and_nothing_else_of_ours() -> None:
    libraries = {"lipguard", "torch", "numpy", "scipy", *sys.stdlib_module_names}
    for path in SOURCES:
        if stage(path) == "trusted":
            assert {name.split(".")[0] for name in imported(path)} <= libraries, path


def test_only_the_conic_module_imports_a_solver() -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if {n.split(".")[0] for n in imported(path)} & {"cvxpy", "scs", "clarabel"}
    }
    assert users == {"proposing/conic/solve.py"}


def test_only_the_outer_packages_import_lightning_torchmetrics_or_hydra() -> None:
    for path in SOURCES:
        heads = {name.split(".")[0] for name in imported(path)}
        if heads & {"pytorch_lightning", "lightning", "torchmetrics", "hydra", "omegaconf"}:
            assert stage(path) in OUTER, path


def test_every_public_name_exists_and_nothing_else_is_public() -> None:
    assert set(lipguard.__all__) == {"__version__", *lipguard._HOMES}
    for name in lipguard.__all__:
        assert getattr(lipguard, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = lipguard.nonsense  # type: ignore[attr-defined]


def test_importing_the_package_is_cheap() -> None:
    import subprocess
    import sys

    program = "import sys, lipguard; print([m for m in ('torch', 'cvxpy', 'pytorch_lightning') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_pictures_in_the_docs_are_what_the_imports_say() -> None:
    page = ROOT.parent / "docs" / "architecture.md"
    text = page.read_text()
    assert filled(text, tables()) == text, "run: python -m tests.benchmarks architecture --docs ."
    assert all(f"<!-- table: {name} -->" in text for name in tables())
