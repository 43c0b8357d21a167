"""What every verb of the command line owes: help, a configuration, clear errors, and a place in the README."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
from pathlib import Path

import pytest
from helpers.commands import message
from omegaconf import OmegaConf

import lipguard.app.verbs
from lipguard.app.command import VERBS, Verb
from lipguard.app.console.folders import config_folder

ROOT = Path(__file__).parents[2]
EACH = pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.name)
OVERRIDES = ["a.b=1", "+c=[x,y]", "~d", "-m", "--cfg", "++e='f g.npz'"]


def readme_commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    lines = [line for line in "".join(blocks).splitlines() if line.startswith("lipguard ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_verbs_files_and_configurations_are_the_same_list() -> None:
    files = Path(lipguard.app.verbs.__path__[0]).glob("*.py")
    assert {file.stem for file in files} - {"__init__"} == set(VERBS)
    assert {path.stem for path in config_folder().glob("*.yaml")} == set(VERBS)
    assert {words[0] for words in readme_commands()} == set(VERBS)


@EACH
def test_its_function_is_documented_and_takes_the_configuration_alone(verb: Verb) -> None:
    function = getattr(importlib.import_module(f"lipguard.app.verbs.{verb.name}"), verb.name)
    assert list(inspect.signature(function).parameters) == ["cfg"]
    assert "Raises:" in inspect.getdoc(function)


@EACH
def test_usage_has_its_line(command, capsys, verb: Verb) -> None:
    assert command("--help") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == [verb.name]]
    assert lines == [f"  {verb.name:<9}{verb.summary}"]
    assert len(lines[0]) <= 120


@EACH
def test_help_lists_what_can_be_overridden(command, capsys, verb: Verb) -> None:
    assert command(verb.name, "--help") == 0
    shown = capsys.readouterr().out
    own = set(OmegaConf.load(config_folder() / f"{verb.name}.yaml")) - {"defaults"} | {"paths"}
    assert all(f"\n{key}:" in shown for key in own)


@EACH
def test_its_configuration_composes_and_says_what_it_is_for(compose, verb: Verb) -> None:
    OmegaConf.to_container(compose(verb.name), resolve=True)
    first = (config_folder() / f"{verb.name}.yaml").read_text().splitlines()[0]
    assert re.fullmatch(rf"# lipguard {verb.name}[^:]*: .+", first)


@EACH
def test_an_unknown_option_is_refused_in_one_line_with_those_that_exist(command, capsys, verb: Verb) -> None:
    assert command(verb.name, "nonsense=1") == 1
    text = message(capsys)
    assert "Could not override 'nonsense'." in text
    assert "(Keys of the configuration: " in text


@EACH
def test_an_unknown_choice_of_a_group_is_refused_in_one_line(command, capsys, verb: Verb) -> None:
    assert command(verb.name, "paths=nonsense") == 1
    assert "Expected paths to be one of default, but got nonsense." in message(capsys)


@EACH
def test_overrides_pass_as_they_are(verb: Verb) -> None:
    assert verb.positional(OVERRIDES) == OVERRIDES


@EACH
def test_what_the_readme_calls_composes(compose, verb: Verb) -> None:
    calls = [words[1:] for words in readme_commands() if words[0] == verb.name]
    assert calls
    for words in calls:
        compose(verb.name, *(word for word in verb.positional(words) if word != "-m" and "," not in word))
