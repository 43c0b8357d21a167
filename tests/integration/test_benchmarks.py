"""The benchmark's command: measures, goes on where it stopped, and fills the pages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = "before\n\n<!-- table: Bound -->\n\nold\n\n<!-- end -->\n\nafter <!-- table: Unknown -->kept<!-- end -->\n"


def benchmarks(*arguments: object) -> str:
    command = [sys.executable, "-m", "tests.benchmarks", "methods", "--threads", "1", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_its_continuation_and_its_tables(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    chosen = ("--only", "diagonal", "--ascent", 0.3, "--json", results)
    benchmarks(*chosen, "--methods", "lower", "product", "liplt", "cold")
    rows = json.loads(results.read_text())["rows"]
    assert [(row["method"], row["status"]) for row in rows] == [
        ("lower", "done"), ("product", "done"), ("liplt", "done"), ("cold", "done")
    ]  # fmt: skip
    bounds = {row["method"]: row["bound"] for row in rows}
    assert 3.9 < bounds["lower"] <= 4 <= bounds["product"] < 4.0001  # of layers of norm two
    assert 4 <= bounds["cold"] <= bounds["product"] * (1 + 1e-9)
    assert bounds["liplt"] >= 4 - 1e-6
    assert all(0 < row["seconds"] < 60 for row in rows)

    benchmarks(*chosen, "--methods", "product", "gram", "cold")
    more = json.loads(results.read_text())["rows"]
    assert more[:4] == rows
    assert [row["method"] for row in more[4:]] == ["gram"]

    (tmp_path / "docs").mkdir()
    pages = [tmp_path / "README.md", tmp_path / "docs" / "benchmarks.md"]
    for page in pages:
        page.write_text(PAGES)
    benchmarks("--report", results, "--docs", tmp_path)
    for page in pages:
        text = page.read_text()
        assert "| diagonal, 2 layers | 8 | 4 | **4** |" in text
        assert "old" not in text
        assert text.startswith("before\n")
        assert text.endswith("after <!-- table: Unknown -->kept<!-- end -->\n")
    assert (tmp_path / "docs" / "benchmarks.png").stat().st_size > 10_000
    assert "tightest, or within 0.5 % of it, on 1 of 1" in benchmarks("--report", results)


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
    benchmarks("--report", tmp_path / "results.json", "--docs", tmp_path)
    text = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "| a card | N | 3 | lipguard | 2.5 | 0.50 | 2 | 8.00 |" in text
    assert "| a card | M | 3 | lipguard | - | timeout |  |  |" in text
    assert "2.5" not in text.partition("<!-- table: Bound -->")[2]


def test_networks_are_kept_and_taken_from_where_they_were(tmp_path: Path) -> None:
    chosen = ("--only", "orthogonal", "--methods", "product", "--networks", tmp_path / "nets")
    benchmarks(*chosen, "--json", tmp_path / "one.json")
    (file,) = (tmp_path / "nets").iterdir()
    model, about = torch.load(file, weights_only=False)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    torch.save((model, about), file)
    benchmarks(*chosen, "--json", tmp_path / "two.json")
    one, two = (json.loads((tmp_path / f"{name}.json").read_text())["rows"][0] for name in ("one", "two"))
    assert two["bound"] == pytest.approx(one["bound"] * 2**5)


def test_other_settings_do_not_mix(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    about = {"machine": "a calculator", "threads": 1, "limit": 30.0, "torch": "0"}
    results.write_text(json.dumps({"about": about, "notes": [], "rows": []}))
    command = [sys.executable, "-m", "tests.benchmarks", "methods", "--only", "diagonal", "--json", str(results)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert "another machine" in done.stderr
    assert "give another file" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "methods", "--only", "diagonal", "--device", "cuda"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "--device cuda: torch" in done.stderr
