"""Imports go down only. Read from the source."""

import sys
from pathlib import Path

import pytest
from benchmarks.reporting.architecture import pages
from benchmarks.reporting.imports import ROOT, SOURCES, arrows, closure, imported, levels, part, stage
from benchmarks.reporting.markdown import filled

DOCS = ROOT.parent / "docs"
DRAWN = ("architecture.md", "soundness.md")
# What stands in a set imports what stands in the sets before it, and nothing of its own set.
ORDER = [{"errors"}, {"trusted"}, {"config"}, {"planning", "proposing"}, {"certifying"}, {"choosing"}, {"figures"}]
OUTER = {"metrics", "callbacks", "lightning", "app", "moved"}
TRUSTED = [
    {"rounding", "layers"}, {"network"}, {"lmi"}, {"proofs"}, {"norms"}, {"regions", "reading"}, {"certificate"}
]  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_stage_imports_only_stages_below_it(path: Path) -> None:
    own = stage(path)
    if own in OUTER or own == "__init__":
        return
    below = _below(ORDER, own)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "lipguard" and len(parts) > 1:
            assert stage(ROOT.joinpath(*parts[1:])) in below, f"{path.relative_to(ROOT)} imports {name}"


def test_the_folders_inside_what_is_trusted_have_an_order_too() -> None:
    found = arrows("trusted")
    assert set(found) == set().union(*TRUSTED)
    for own, others in found.items():
        assert others <= _below(TRUSTED, own), f"trusted/{own} imports {sorted(others - _below(TRUSTED, own))}"


def _below(order: list[set[str]], own: str) -> set[str]:
    rank = next((k for k, names in enumerate(order) if own in names), None)
    assert rank is not None, f"{own} has no place in the order"
    return {own}.union(*order[:rank])


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {str(path.relative_to(ROOT)): _ours(path) for path in SOURCES if path.name != "__init__.py"}
    assert sum(map(len, levels(graph))) == len(graph)


def _ours(path: Path) -> set[str]:
    files = {part(name) for name in imported(path)} - {None, path}
    return {str(file.relative_to(ROOT)) for file in files if file is not None and file.name != "__init__.py"}


def test_what_is_trusted_rests_on_three_libraries_and_nothing_else_of_ours() -> None:
    libraries = {"torch", "numpy", "scipy", *sys.stdlib_module_names}
    for path in SOURCES:
        if stage(path) != "trusted":
            continue
        for name in imported(path):
            head, *rest = name.split(".")
            allowed = rest[:1] in (["trusted"], ["errors"]) if head == "lipguard" else head in libraries
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_all_that_the_verifier_loads_is_trusted() -> None:
    """The reading of modules is no part of it: a certificate is verified against a network."""
    loaded = {str(path.relative_to(ROOT)) for path in closure(ROOT / "trusted" / "certificate" / "verify.py")}
    strangers = {path for path in loaded if not path.startswith("trusted/") or path.startswith("trusted/reading/")}
    assert strangers == {"errors.py"}
    assert {"trusted/proofs/cholesky.py", "trusted/norms/layers.py", "trusted/rounding.py"} <= loaded


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


FOLDERS = sorted({str(path.parent.relative_to(ROOT)) for path in SOURCES if path.parent != ROOT})


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_stands_in_a_folder_does_not_import_each_other_in_a_circle(folder: str) -> None:
    graph = arrows(folder)
    assert sorted(name for names in levels(graph) for name in names) == sorted(graph)


def test_pages_that_are_drawn_from_the_source() -> None:
    assert set(pages()) == set(DRAWN)


@pytest.mark.parametrize("page", DRAWN)
def test_what_the_docs_say_of_imports_and_files_is_what_the_source_says(page: str) -> None:
    text = (DOCS / page).read_text()
    assert filled(text, pages()[page]) == text, "run: python -m tests.benchmarks architecture --docs ."
    assert all(f"<!-- table: {name} -->" in text for name in pages()[page])


def test_every_trusted_file_is_in_the_list_of_what_is_trusted_and_says_what_it_does() -> None:
    rows = dict(line.strip("| ").split(" | ", 1) for line in pages()["soundness.md"]["Trusted files"].splitlines()[2:])
    assert list(rows) == [f"`{path.relative_to(ROOT)}`" for path in SOURCES if stage(path) == "trusted"]
    assert all(said.endswith(".") for said in rows.values())
