"""The studies' command: lists them, measures, goes on where it stopped, and fills the pages."""

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.__main__ import main, parser_of

ROOT = Path(__file__).parents[2]
PAGES = "before\n\n<!-- table: Bound -->\n\nold\n\n<!-- end -->\n\nafter <!-- table: Unknown -->kept<!-- end -->\n"


WIDER = """
_narrow = sqrt_up


def sqrt_up(value: float) -> float:
    return 1.000001 * _narrow(value)
"""
STUDIES = sorted(path.stem for path in (ROOT / "tests" / "benchmarks" / "studies").glob("[a-z]*.py"))


def started(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def benchmarks(*arguments: object) -> str:
    """What it prints, in this process: what it measures has processes of its own."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main([*map(str, arguments)]) == 0
    return printed.getvalue()


def test_help_lists_every_study() -> None:
    shown = started("--help").stdout
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("  ")] == STUDIES
    assert all(len(line.split()) > 4 for line in shown.splitlines() if line.startswith("  "))


def test_a_study_that_is_none() -> None:
    done = started("nonsense")
    assert done.returncode == 2
    assert done.stderr.startswith("unknown study 'nonsense'\nusage: python -m tests.benchmarks STUDY")


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_has_options_and_a_purpose(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: python -m tests.benchmarks {name} [-h]")
    source = (ROOT / "tests" / "benchmarks" / "studies" / f"{name}.py").read_text()
    assert source.split('"""')[1].splitlines()[0] in shown
    assert source.count("\n") < 150


def test_every_command_in_the_documents_is_one() -> None:
    found = []
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for words in re.findall(r"python -m tests\.benchmarks ([a-z][^`\n#]*)", page.read_text()):
            name, *options = shlex.split(words)
            parser_of(name).parse_args(options)
            found.append(name)
    assert len(set(found)) > 8


@pytest.mark.slow
def test_another_checkout_with_the_same_results(tmp_path: Path) -> None:
    """A copy; then the same with bounds that are larger by one in a million."""
    shutil.copytree(ROOT / "lipguard", tmp_path / "lipguard", ignore=shutil.ignore_patterns("__pycache__"))
    chosen = ("--only", "mlp leaky", "--keep", tmp_path / "kept.json")
    assert "8 results of 1 networks: 0 differ" in benchmarks("same_results", ROOT, tmp_path, *chosen)
    with (tmp_path / "lipguard" / "trusted" / "rounding.py").open("a") as file:
        file.write(WIDER)
    done = started("same_results", ROOT, tmp_path, *chosen)  # of the first, what is kept
    assert done.returncode == 1
    assert "mlp leaky | default: bound: " in done.stdout


@pytest.mark.slow
def test_a_run_its_continuation_and_its_tables(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    chosen = ("--only", "diagonal", "--ascent", 0.3, "--json", results)
    benchmarks("methods", *chosen, "--threads", 1, "--methods", "product", "liplt", "cold")
    rows = json.loads(results.read_text())["rows"]
    assert [(row["method"], row["status"]) for row in rows] == [
        ("product", "done"), ("liplt", "done"), ("cold", "done")
    ]  # fmt: skip
    bounds = {row["method"]: row["bound"] for row in rows}
    assert 4 <= bounds["product"] < 4.0001  # of layers of norm two
    assert 4 <= bounds["cold"] <= bounds["product"] * (1 + 1e-9)
    assert bounds["liplt"] >= 4 - 1e-6
    assert all(0 < row["seconds"] < 60 for row in rows)

    benchmarks("methods", *chosen, "--threads", 1, "--methods", "product", "lower", "cold")
    more = json.loads(results.read_text())["rows"]
    assert more[:3] == rows
    assert [row["method"] for row in more[3:]] == ["lower"]
    assert 3.9 < more[3]["bound"] <= 4

    (tmp_path / "docs").mkdir()
    pages = [tmp_path / "README.md", tmp_path / "docs" / "benchmarks.md"]
    for page in pages:
        page.write_text(PAGES)
    benchmarks("pages", results, "--docs", tmp_path)
    for page in pages:
        text = page.read_text()
        assert "| diagonal, 2 layers | 8 | 4 | **4** |" in text
        assert "old" not in text
        assert text.startswith("before\n")
        assert text.endswith("after <!-- table: Unknown -->kept<!-- end -->\n")
    assert (tmp_path / "docs" / "benchmarks.png").stat().st_size > 10_000
    assert "tightest, or within 0.5 % of it, on 1 of 1" in benchmarks("pages", results)


def test_rows_of_another_device_stand_beside_those_of_the_cpu(tmp_path: Path) -> None:
    row = {
        "part": "table",
        "network": "N",
        "method": "cold",
        "neurons": 3,
        "status": "done",
        "peak_mb": 1.0,
        "lower": 1.0,
    }
    rows = [
        row | {"device": "cpu", "bound": 2.0, "seconds": 8.0},
        row | {"device": "cuda", "device name": "a card", "bound": 2.5, "seconds": 0.5},
        row | {"device": "cuda", "device name": "a card", "network": "M", "status": "timeout", "seconds": 30.0},
    ]
    about = {"machine": "m", "threads": 1, "limit": 30.0, "torch": "0"}
    (tmp_path / "results.json").write_text(json.dumps({"about": about, "notes": [], "rows": rows}))
    (tmp_path / "docs").mkdir()
    for page in (tmp_path / "README.md", tmp_path / "docs" / "benchmarks.md"):
        page.write_text("<!-- table: Other devices --><!-- end --> <!-- table: Bound --><!-- end -->")
    benchmarks("pages", tmp_path / "results.json", "--docs", tmp_path)
    text = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "| a card | N | 3 | lipguard | 2.5 | 0.50 | 2 | 8.00 |" in text
    assert "| a card | M | 3 | lipguard | - | timeout |  |  |" in text
    assert "2.5" not in text.partition("<!-- table: Bound -->")[2]


def test_networks_are_kept_and_taken_from_where_they_were(tmp_path: Path) -> None:
    chosen = ("--only", "orthogonal", "--methods", "product", "--networks", tmp_path / "nets")
    benchmarks("methods", *chosen, "--threads", 1, "--json", tmp_path / "one.json")
    (file,) = (tmp_path / "nets").iterdir()
    model, about = torch.load(file, weights_only=False)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    torch.save((model, about), file)
    benchmarks("methods", *chosen, "--threads", 1, "--json", tmp_path / "two.json")
    one, two = (json.loads((tmp_path / f"{name}.json").read_text())["rows"][0] for name in ("one", "two"))
    assert two["bound"] == pytest.approx(one["bound"] * 2**5)


def test_other_settings_do_not_mix(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    about = {"machine": "a calculator", "threads": 1, "limit": 30.0, "torch": "0"}
    results.write_text(json.dumps({"about": about, "notes": [], "rows": []}))
    done = started("methods", "--only", "diagonal", "--json", results)
    assert done.returncode == 1
    assert "another machine" in done.stderr
    assert "give another file" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there() -> None:
    done = started("methods", "--only", "diagonal", "--device", "cuda")
    assert done.returncode == 2
    assert re.search("argument --device: torch .* finds no device cuda here", done.stderr)
