"""Files, functions and objects stay small, and names say one thing. Today's exceptions may only shrink.

Measured in the source of the package, by syntax alone: an attribute is one that changes where a method other than
`__init__` and `__post_init__` assigns it through its first argument, counted with those of the classes it derives from.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.reporting.imports import ROOT, SOURCES

EXCEPTIONS = Path(__file__).with_name("exceptions.toml")
Function = ast.FunctionDef | ast.AsyncFunctionDef
TREES = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in SOURCES}
CLASSES = [(path, node) for path, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
NAMED = {cls.name: cls for _, cls in CLASSES}


def lines_of_files() -> Counter[str]:
    return Counter({str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES})


def lines_of_functions() -> Counter[str]:
    return Counter(
        {
            f"{path} {node.name}": (node.end_lineno or 0) - node.lineno + 1
            for path, tree in TREES.items()
            for node in ast.walk(tree)
            if isinstance(node, Function)
        }
    )


def attributes_that_change() -> Counter[str]:
    return Counter({f"{path} {cls.name}": len(changing(cls)) for path, cls in CLASSES if not frozen(cls)})


def frozen(cls: ast.ClassDef) -> bool:
    return any("frozen=True" in ast.unparse(decorator) for decorator in cls.decorator_list)


def changing(cls: ast.ClassDef) -> set[str]:
    """The attributes that methods assign, also those of classes of the package that it derives from."""
    bases = [re.split(r"[.\[]", ast.unparse(base))[-1] for base in cls.bases]
    found = set().union(*(changing(NAMED[base]) for base in bases if base in NAMED and base != cls.name))
    for method in cls.body:
        if isinstance(method, Function) and method.name not in ("__init__", "__post_init__") and method.args.args:
            found |= set(assigned(method, method.args.args[0].arg))
    return found


def assigned(method: Function, own: str) -> Iterator[str]:
    for node in ast.walk(method):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store | ast.Del)
            and isinstance(node.value, ast.Name)
            and node.value.id == own
        ):
            yield node.attr


def private_names() -> Counter[str]:
    """By folder and name: how many of its files define it, and not all with the same words."""
    found: dict[str, dict[str, str]] = {}
    for path, tree in TREES.items():
        for name, source in definitions(tree):
            if re.match(r"_[A-Za-z]", name):
                found.setdefault(f"{Path(path).parent} {name}", {})[path] = source
    return Counter({key: len(homes) for key, homes in found.items() if len(set(homes.values())) > 1})


def constants() -> Counter[str]:
    """By name and value, a number: how many files define it."""
    found = Counter[str]()
    for tree in TREES.values():
        numbers = (pair for pair in definitions(tree) if re.fullmatch(r"[\d.e+\-* ()]+", pair[1]))
        found.update({f"{name} = {value}" for name, value in numbers})
    return found


def definitions(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What a module binds at its top, and to what, as source."""
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef):
            yield node.name, ast.unparse(node)
        elif isinstance(node, ast.Assign):
            yield from ((ast.unparse(target), ast.unparse(node.value)) for target in node.targets)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            yield ast.unparse(node.target), ast.unparse(node.value)


RULES = {  # what is measured, and the most of it that needs no exception
    "lines of a file": (lines_of_files, 300),
    "lines of a function": (lines_of_functions, 60),
    "attributes that change": (attributes_that_change, 8),
    "files that define a private name of a folder": (private_names, 1),
    "files that define a constant of one name and value": (constants, 1),
}


def problems(found: Counter[str], most: int, allowed: dict[str, int]) -> list[str]:
    """What to do about each number above its limit, and about each exception that is too large."""
    grown = [
        f"{what} has {found[what]}; at most {allowed.get(what, most)}: split it"
        for what in found
        if found[what] > allowed.get(what, most)
    ]
    shrunk = [
        f"delete the line of {what}" if found[what] <= most else f"write {found[what]} for {what}"
        for what, today in allowed.items()
        if found[what] < today or today <= most
    ]
    return grown + [f"tests/architecture/exceptions.toml: {line}" for line in shrunk]


@pytest.mark.parametrize("rule", RULES)
def test_everything_is_small_but_for_todays_exceptions_which_only_shrink(rule: str) -> None:
    measure, most = RULES[rule]
    allowed = tomllib.loads(EXCEPTIONS.read_text())
    assert set(allowed) <= set(RULES)
    found = problems(measure(), most, allowed.get(rule, {}))
    assert not found, "\n".join([f"{rule}:", *found])


def test_exceptions_that_grow_shrink_or_are_not_needed_are_noticed() -> None:
    found = Counter({"a": 9, "b": 12, "c": 9, "d": 3})
    assert problems(found, 8, {"a": 9, "b": 12, "c": 9}) == []
    assert problems(found, 8, {"a": 9, "b": 11, "c": 10, "d": 9, "gone": 20}) == [
        "b has 12; at most 11: split it",
        "tests/architecture/exceptions.toml: write 9 for c",
        "tests/architecture/exceptions.toml: delete the line of d",
        "tests/architecture/exceptions.toml: delete the line of gone",
    ]
    assert problems(found, 8, {"a": 9, "b": 12}) == ["c has 9; at most 8: split it"]


def test_attributes_are_counted_where_methods_assign_them() -> None:
    source = """
class Changing:
    def __init__(self): self.made = self.first = 0
    def step(this): this.first, this.second = 1, 2; this.third += 1; this.inner.fourth = 1; del this.fifth
"""
    (cls,) = ast.parse(source).body
    assert isinstance(cls, ast.ClassDef)
    assert changing(cls) == {"first", "second", "third", "fifth"}
    assert all(measure() for measure, _ in RULES.values())
