"""The README's Python snippets run as they stand, in order, in one namespace; its commands are those that CI uses."""

import re
import subprocess
from pathlib import Path

import pytest

from lipguard.callbacks.rows import KEYS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")  # Lightning 2.6 with torch 2.13
@pytest.mark.filterwarnings("ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning")
def test_the_python_snippets_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    assert len(snippets("python")) == 3
    for snippet in snippets("python"):
        exec(compile(snippet, "README.md", "exec"), namespace)
    assert "certified bound" in capsys.readouterr().out
    assert (tmp_path / "certificate.npz").exists()


def test_the_test_command_is_what_ci_runs() -> None:
    command = next(line for line in "".join(snippets("bash")).splitlines() if "pytest" in line)
    assert command.endswith("python -m pytest")
    script = (ROOT / ".ci" / "run").read_text()
    assert "step python -m pytest\n" in script
    for part in ("torch==2.13.0", '".[test]"'):
        assert part in command
        assert part in script


def test_every_part_of_ci_is_explained_and_no_other_exists() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text()
    explained = set(re.findall(r"^\| `(\w+)`", page, flags=re.MULTILINE))
    refused = subprocess.run([ROOT / ".ci" / "run", "nonsense"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert set(re.findall(r"[\[|](\w+)(?=[\]|])", refused.stderr)) == explained
    functions = set(re.findall(r"^(\w+)\(\) \{\n", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE))
    assert functions == explained - {"all"}


def test_hooks_before_a_commit_are_what_ci_checks() -> None:
    hooks = re.findall(r"entry: (.*)", (ROOT / ".pre-commit-config.yaml").read_text())
    script = (ROOT / ".ci" / "run").read_text()
    assert hooks == ["ruff check", "ruff format", "mypy"]
    assert all(f"step {hook}" in script for hook in hooks)


def test_every_page_is_in_the_table_of_contents() -> None:
    for index in (ROOT / "docs").rglob("index.md"):
        pages = {path.stem for path in index.parent.glob("*.md")} - {"index"}
        listed = set(index.read_text().rpartition("```{toctree}")[2].split())
        assert pages <= listed, index


def test_every_file_that_the_documents_point_to_exists() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name} points to {target}"


def test_the_table_of_keys_says_what_the_monitor_logs() -> None:
    listed = dict(re.findall(r"\| `lipschitz/([^`]+)` \| (.*) \|", README))
    assert listed == {name: key.meaning for key in KEYS if key.when != "request" for name in key.names((0.25,))}
